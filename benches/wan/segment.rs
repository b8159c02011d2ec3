//! Which packets are TCP segments that carry data. Pure.
//!
//! Congestion windows of Linux count segments, so how many a burst leaves in decides whether it leaves in one round trip.

/// Protocol number of TCP (RFC 9293 §7).
const TCP: u8 = 6;

/// Of an IPv4 header without options (RFC 791 §3.1), and of a TCP header (RFC 9293 §3.1).
const HEADER_BYTES_MIN: usize = 20;

/// Whether an IPv4 packet is a TCP segment with at least one byte of data. Acknowledgements alone, SYN and FIN are none;
/// nor is what cannot be read, such as a later fragment.
pub fn carries_data(packet: &[u8]) -> bool {
    let Some(data_bytes) = data_bytes(packet) else { return false };
    data_bytes > 0
}

fn data_bytes(packet: &[u8]) -> Option<usize> {
    let (&version_and_words, &protocol) = (packet.first()?, packet.get(9)?);
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]);
    if version_and_words >> 4 != 4 || protocol != TCP || fragment & 0x1fff != 0 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let ip_bytes = header_bytes(version_and_words & 0xf)?;
    let tcp_bytes = header_bytes(packet.get(ip_bytes + 12)? >> 4)?;
    total.checked_sub(ip_bytes + tcp_bytes)
}

/// Headers give their length in words of four bytes.
fn header_bytes(words: u8) -> Option<usize> {
    Some(usize::from(words) * 4).filter(|&bytes| bytes >= HEADER_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with headers of so many words.
    fn packet(ip_words: u8, tcp_words: u8, data_bytes: usize) -> Vec<u8> {
        let ip_bytes = usize::from(ip_words) * 4;
        let mut packet = vec![0; ip_bytes + usize::from(tcp_words) * 4 + data_bytes];
        let total = packet.len() as u16;
        packet[0] = 0x40 | ip_words;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[9] = TCP;
        packet[ip_bytes + 12] = tcp_words << 4;
        packet
    }

    #[test]
    fn segment_carries_data_when_something_follows_both_headers() {
        for (ip_words, tcp_words) in [(5, 5), (5, 8), (6, 5), (15, 15)] {
            assert!(!carries_data(&packet(ip_words, tcp_words, 0)));
            assert!(carries_data(&packet(ip_words, tcp_words, 1)));
            assert!(carries_data(&packet(ip_words, tcp_words, 1400)));
        }
    }

    #[test]
    fn other_packets_carry_none() {
        let with = |at: usize, byte| {
            let mut packet = packet(5, 5, 100);
            packet[at] = byte;
            packet
        };
        let (udp, ipv6, later_fragment) = (with(9, 17), with(0, 0x65), with(7, 1));
        let (short_ip, short_tcp) = (with(0, 0x44), with(32, 0x40));
        for other in [udp, ipv6, later_fragment, short_ip, short_tcp] {
            assert!(!carries_data(&other), "{:?}", &other[..40]);
        }
        // "Don't fragment" is no fragment.
        assert!(carries_data(&with(6, 0x40)));
    }

    #[test]
    fn no_beginning_of_a_packet_panics() {
        let whole = packet(5, 8, 10);
        for len in 0..whole.len() {
            carries_data(&whole[..len]);
        }
    }
}
