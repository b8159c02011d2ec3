//! A request of another shard on an HTTP/2 connection of this one (see [`super::borrowed`]).
//!
//! The stream is this shard's in all respects: its place, its windows, its liveness. Only what it says goes elsewhere. It
//! ends with the other shard's interest in it, as that shard's deadlines and its client have it.

#![forbid(unsafe_code)]

use super::{
    borrowed::{Facts, LenderEnd, ToBorrower, ToLender},
    exchange::{Broken, Head},
    multiplexed::Slot,
    stream::{RecvHalf, SendHalf},
};
use crate::{
    shard::{self, pipe::End},
    upstream::{Upstream, origins::Key},
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Instant,
};

type Borrower = End<ToBorrower, ToLender>;

impl Upstream {
    /// Carries a request of another shard, if there is a place for it now. Without one `end` is dropped, which tells.
    pub(in crate::upstream) fn lend_stream(&self, key: &Key, end: LenderEnd) {
        let Some(origin) = self.origins.borrow().by_key.get(key).cloned() else { return };
        let Some(slot) = origin.streams.try_take() else { return };
        let now = Instant::now();
        origin.used.set(now);
        origin.streams.uses(now);
        self.dial_streams(&origin);
        match end.attach() {
            Ok(end) => shard::spawn("HTTP/2 stream of another shard", carry(slot, end)),
            Err(e) => log::debug!("a request of another shard cannot be carried: {e}"),
        }
    }
}

async fn carry(slot: Slot, end: Borrower) {
    let connection = &slot.on.wire.connection;
    let facts = Facts { ip: connection.ip(), tls: connection.tls_facts() };
    // The queue is empty: there is room.
    end.send(ToBorrower::Granted(facts)).ok();
    let Some((request, ends)) = head(&end).await else { return };
    let (sending, receiving) = match slot.open(request, ends) {
        Ok(halves) => halves,
        Err(broken) => {
            end.send(ToBorrower::Broken(broken)).ok();
            return;
        }
    };
    let mut upload = pin!(upload(&end, sending));
    let mut download = pin!(download(&end, receiving));
    let mut uploading = !ends;
    poll_fn(|cx| {
        loop {
            // Neither half listens to the other shard by itself: they would take each other's signals.
            let stirred = end.poll_stirred(cx).is_ready();
            if end.is_left() {
                return Poll::Ready(());
            }
            uploading = uploading && upload.as_mut().poll(cx).is_pending();
            if download.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !stirred {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// The request's head; None: the other shard is not interested any more.
async fn head(end: &Borrower) -> Option<(http::Request<()>, bool)> {
    poll_fn(|cx| {
        loop {
            if end.is_left() {
                return Poll::Ready(None);
            }
            match end.take() {
                Some(ToLender::Open(request, ends)) => return Poll::Ready(Some((*request, ends))),
                Some(ToLender::Data(..) | ToLender::Trailers(_)) => return Poll::Ready(None),
                None => {}
            }
            if end.poll_stirred(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Sends the request's body. When the origin takes no more, the rest is thrown away: the response tells what became of it.
async fn upload(end: &Borrower, mut sending: SendHalf) {
    let mut is_taken = true;
    loop {
        let next = poll_fn(|_| end.take().map_or(Poll::Pending, Poll::Ready)).await;
        let (sent, ends) = match next {
            ToLender::Data(data, ends) if is_taken => (sending.data(data, ends).await, ends),
            ToLender::Trailers(lines) if is_taken => (sending.trailers(&lines), true),
            ToLender::Data(_, ends) => (Ok(()), ends),
            // A second head would be this program's own mistake; the stream is reset.
            ToLender::Trailers(_) | ToLender::Open(..) => (Ok(()), true),
        };
        is_taken = is_taken && sent.is_ok();
        if ends {
            return;
        }
    }
}

/// Passes the response on, to its end or its failure.
async fn download(end: &Borrower, mut receiving: RecvHalf) {
    if let Err(broken) = response(end, &mut receiving).await {
        send(end, ToBorrower::Broken(broken)).await;
    }
}

async fn response(end: &Borrower, receiving: &mut RecvHalf) -> Result<(), Broken> {
    loop {
        let head: Head = poll_fn(|cx| receiving.poll_head(cx)).await?;
        let (is_final, ends) = (head.status() >= 200, head.ends);
        send(end, ToBorrower::Head(Box::new(head))).await;
        if ends {
            return Ok(());
        }
        if is_final {
            break;
        }
    }
    loop {
        let data = poll_fn(|cx| {
            receiving.release(end.take_granted());
            receiving.poll_data(cx)
        });
        let Some(data) = data.await.transpose()? else {
            let trailers = receiving.trailers().await?;
            send(end, ToBorrower::End(trailers)).await;
            return Ok(());
        };
        let is_over = receiving.is_over();
        send(end, ToBorrower::Data(data, is_over)).await;
        if is_over {
            return Ok(());
        }
    }
}

/// Waits for room. The caller polls again whenever the other shard took something.
async fn send(end: &Borrower, message: ToBorrower) {
    let mut message = Some(message);
    poll_fn(|_| {
        message = message.take().and_then(|message| end.send(message).err());
        if message.is_some() { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}
