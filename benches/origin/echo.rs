//! An origin on monoio and monoio-http: as fast as this stack gets, and code that knows nothing of ours.
//!
//! It answers `GET` with a fixed body, any request that has a body of a known length with that body. Nothing but tests
//! and benches speaks to it: monoio-http's codec is not for peers that one does not trust.

use bytes::Bytes;
use monoio::{
    io::{sink::SinkExt, stream::Stream},
    net::{TcpListener, TcpStream},
};
use monoio_http::{
    common::{error::HttpError, request::Request},
    h1::{
        codec::{ServerCodec, decoder::FillPayload},
        payload::{FixedPayload, Payload},
    },
};

/// Serves `listener` on this thread until the process ends. `body` answers requests without a body.
pub fn serve(listener: std::net::TcpListener, body: Bytes) -> std::io::Result<()> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            monoio::spawn(answer_all(stream, body.clone()));
        }
    })
}

/// Answers one request after the other until the peer ends or says something that is no request.
async fn answer_all(stream: TcpStream, body: Bytes) {
    let mut codec = ServerCodec::new(stream);
    while let Some(Ok(request)) = codec.next().await {
        let request: Request = request;
        // The codec hands a body over only when it has all of it, and reads only when it is told to.
        let filled = codec.fill_payload().await;
        let answer = match request.into_body() {
            Payload::None => body.clone(),
            Payload::Fixed(mut payload) => match payload.next().await {
                Some(Ok(sent)) if filled.is_ok() => sent,
                _cut => return,
            },
            Payload::Stream(_) => return,
        };
        let payload = FixedPayload::<Bytes, HttpError>::new(answer);
        let response = http::Response::new(Payload::Fixed(payload));
        if codec.send_and_flush(response).await.is_err() {
            return;
        }
    }
}
