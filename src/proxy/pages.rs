//! Requests that the proxy answers itself: its own pages, before any thought of an origin.

#![forbid(unsafe_code)]

use super::{Next, asked::Asked, persistence, persists};
use crate::{
    client::Door,
    config::ApiAt,
    headers::{self, Target},
    http1::framing::RequestBody,
    limits::OWN_ANSWER_WITHIN,
    observe::admin::Page,
    relay::Ends,
    shard::{blocks::Outgoing, mailbox, watch::Deadline},
};
use std::time::Instant;

/// What the proxy answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnAnswer {
    Page(Page),
    /// At the door for pages, where there is nothing else.
    NoSuchPage,
    MethodNotAllowed,
}

/// What a request that came by `door` asks of the proxy itself; None if it is for an origin.
pub fn asked_for(door: Door, api: ApiAt, method: &str, target: &Target<'_>) -> Option<OwnAnswer> {
    let page = Page::of(target.path_and_query);
    let own = match (door, api, page) {
        (Door::Main, ApiAt::Main, page) => OwnAnswer::Page(page?),
        (Door::Main, ApiAt::Off | ApiAt::Address(_), _) => return None,
        (Door::Api, _, Some(page)) => OwnAnswer::Page(page),
        (Door::Api, _, None) => return Some(OwnAnswer::NoSuchPage),
    };
    // chocon answers any method; but what changes nothing should not look as if it did.
    Some(if matches!(method, "GET" | "HEAD") { own } else { OwnAnswer::MethodNotAllowed })
}

/// Answers with a page, or why there is none. `out` is room for the answer.
pub async fn answer(
    ends: &Ends<'_>,
    asked: &Asked,
    own: OwnAnswer,
    out: &mut Outgoing<'_>,
) -> Next {
    let Ends { watch, progress, .. } = ends;
    if asked.body == RequestBody::None {
        ends.request_is_read(false);
    }
    let (status, text) = match own {
        OwnAnswer::Page(page) => match watch.unless_cut(make(ends, page)).await {
            Some(Some(page)) => (200, page),
            Some(None) => (503, b"the page cannot be made now\n".to_vec()),
            // The client is gone, or the process ends: nobody reads it.
            None => return Next::Close,
        },
        OwnAnswer::NoSuchPage => (404, b"there are /.api/stats and /.api/http-stats\n".to_vec()),
        OwnAnswer::MethodNotAllowed => (405, b"GET and HEAD only\n".to_vec()),
    };
    let persists = persists(ends, asked);
    let persistence = persistence(persists, asked.version);
    out.clear();
    headers::write_page(out, status, persistence, asked.id.bytes(), &text, asked.is_head);
    progress.status.set(Some(status));
    if !asked.is_head {
        progress.body_bytes.set(text.len() as u64);
    }
    watch.set(Deadline::Response, Some(Instant::now() + OWN_ANSWER_WITHIN));
    match (ends.flush(out).await, persists) {
        (Ok(()), true) => Next::KeepAlive,
        (Ok(()), false) => Next::Linger,
        (Err(_), _) => Next::Reset,
    }
}

/// Has a page made on the thread for that. None: too many wait for it, or it failed.
async fn make(ends: &Ends<'_>, page: Page) -> Option<Vec<u8>> {
    let api = ends.shard.api.as_ref()?;
    // An event counter each; pages are asked for some times a minute.
    let (reply, made) = mailbox::reply().ok()?;
    let taken = api.ask(page, move |page| {
        // Whoever asked may be gone.
        reply.send(page).ok();
    });
    if taken { made.first().await.ok().flatten() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(door: Door, api: ApiAt, method: &str, target: &str) -> Option<OwnAnswer> {
        asked_for(door, api, method, &Target::parse(method, target).expect("a target"))
    }

    const STATS: Option<OwnAnswer> = Some(OwnAnswer::Page(Page::Stats { pretty: false }));
    const ELSEWHERE: ApiAt = ApiAt::Address(std::net::SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        3001,
    ));

    #[test]
    fn pages_are_where_they_were_told_to_be() {
        let main = |api, target| asked(Door::Main, api, "GET", target);
        assert_eq!(main(ApiAt::Main, "/.api/stats"), STATS);
        assert_eq!(main(ApiAt::Main, "http://anyone/.api/stats"), STATS);
        assert_eq!(main(ApiAt::Main, "/.api/other"), None);
        assert_eq!(main(ApiAt::Main, "/"), None);
        for api in [ApiAt::Off, ELSEWHERE] {
            assert_eq!(main(api, "/.api/stats"), None, "an origin may have such a path");
        }
        let apart = |target| asked(Door::Api, ELSEWHERE, "GET", target);
        assert_eq!(apart("/.api/stats"), STATS);
        assert_eq!(apart("/.api/other"), Some(OwnAnswer::NoSuchPage));
        assert_eq!(apart("http://example.com.ccnproxy/"), Some(OwnAnswer::NoSuchPage));
    }

    #[test]
    fn pages_are_read_and_nothing_else() {
        for (method, answer) in [
            ("GET", STATS),
            ("HEAD", STATS),
            ("POST", Some(OwnAnswer::MethodNotAllowed)),
            ("DELETE", Some(OwnAnswer::MethodNotAllowed)),
        ] {
            assert_eq!(asked(Door::Main, ApiAt::Main, method, "/.api/stats"), answer, "{method}");
        }
        assert_eq!(asked(Door::Main, ApiAt::Main, "POST", "/"), None);
    }
}
