//! One thread a shard: started, wired, and watched for its end.

#![forbid(unsafe_code)]

use crate::{
    client::Door,
    config::Config,
    downstream::accept::{Acceptor, Arrival, Spread},
    limits::API_CLIENTS_MAX,
    observe::{
        access_log::LogSink,
        api::Api,
        counters::{Counters, Recorder},
        latency::OriginSnapshot,
    },
    shard::{
        self, Shard,
        mailbox::{Inbox, Mailbox, mailbox},
        runtime::{self, Cpu, RingFlags},
        spin,
    },
    upstream::{
        Shares, Upstream,
        dns::{Answer, Resolver},
        names::Names,
        neighbours::{Message, Neighbours},
        own::Own,
        state::{Part, State},
        tls::Tls,
    },
};
use monoio::net::TcpListener;
use std::{
    cell::Cell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, mpsc::Sender},
    thread,
    time::{Duration, Instant},
};

/// How often a shard sees, before it opens, whether its connections are there.
const WARM_LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the process tells a shard.
pub enum Order {
    /// Take clients.
    Open,
    /// Send a copy of the latency histograms.
    Snapshot(Sender<Vec<OriginSnapshot>>),
    /// Send what is worth knowing after a restart.
    Remember(Sender<Vec<Part>>),
    /// Take no new connections, finish what is under way, and say so.
    Drain,
}

/// What a shard tells the process.
pub enum Report {
    /// The connections that are to be ready are, or cannot be made.
    Warm,
    /// It takes clients.
    Ready,
    /// Drained: no client connection is left.
    Empty,
    /// The shard cannot start, or ended though nobody asked it to.
    Died(String),
}

/// Which shard, and what it tells.
pub type FromShard = (usize, Report);

/// What all shards get a copy of.
#[derive(Clone)]
pub struct Parts {
    pub config: Arc<Config>,
    pub flags: RingFlags,
    pub tls: Tls,
    pub resolver: Resolver,
    /// Where `--upstream` leads at the start; None: it is not given, or an address.
    pub fixed: Option<Answer>,
    /// What was known before the start.
    pub recalled: Arc<State>,
    pub neighbours: Arc<Neighbours>,
    pub shares: Shares,
    pub own: Own,
    pub clients_max: usize,
    pub spread: Arc<Spread>,
    /// One a shard.
    pub counters: Arc<[Arc<Counters>]>,
    pub api: Option<Api>,
}

/// A shard's listeners.
pub struct Doors {
    pub main: Vec<std::net::TcpListener>,
    pub api: Option<std::net::TcpListener>,
}

/// What one shard gets for itself.
pub struct Unshared {
    pub index: usize,
    pub cpu: Option<Cpu>,
    pub doors: Doors,
    pub log: LogSink,
    /// What other shards say.
    pub messages: Inbox<Message>,
    /// Clients that they hand on.
    pub arrivals: Inbox<Arrival>,
}

/// Starts the thread of a shard. It reports `Warm` or `Died` first, and `Ready` once it was told to open.
pub fn start(
    unshared: Unshared,
    parts: Parts,
    report: Sender<FromShard>,
) -> io::Result<Mailbox<Order>> {
    let Unshared { index, cpu, doors, log, messages, arrivals } = unshared;
    let (orders, inbox) = mailbox()?;
    let inboxes = Inboxes { orders: inbox, messages, arrivals };
    thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
        let died = |why: String| {
            // The process listens as long as it lives; if it does not, there is nobody to tell.
            report.send((index, Report::Died(why))).ok();
        };
        if cpu.is_some_and(|cpu| !runtime::pin(cpu)) {
            log::warn!("shard {index} could not be pinned to its CPU; it runs anywhere");
        }
        let mut ring = match runtime::build(parts.flags) {
            Ok(ring) => ring,
            Err(e) => return died(format!("its io_uring runtime cannot be built: {e}")),
        };
        let recorder = Recorder::new(&parts.counters[index], parts.config.sampling, index);
        let shard = Shard::new(index, parts.config.clone(), log, recorder, parts.api.clone());
        let shard = Rc::new(shard);
        let balance = parts.spread.balance.clone();
        // Connections catch their own panics; one that gets here would leave the shard half-alive.
        let run = catch_unwind(AssertUnwindSafe(|| {
            ring.block_on(serve(shard, doors, inboxes, parts, report.clone()))
        }));
        balance.close(index);
        died(match run {
            Ok(why) => why,
            Err(_) => "it panicked; please report this".to_owned(),
        });
        // A runtime must not be dropped while the kernel may write to its buffers; the process ends now.
        std::mem::forget(ring);
    })?;
    Ok(orders)
}

/// What a shard is told, and by whom.
struct Inboxes {
    orders: Inbox<Order>,
    messages: Inbox<Message>,
    arrivals: Inbox<Arrival>,
}

/// Wires a shard and runs it. Returns only on failure: why.
async fn serve(
    shard: Rc<Shard>,
    doors: Doors,
    Inboxes { orders, messages, arrivals }: Inboxes,
    parts: Parts,
    report: Sender<FromShard>,
) -> String {
    let index = shard.index;
    let (answers, answered) = match mailbox() {
        Ok(ends) => ends,
        Err(e) => return format!("its mailbox cannot be made: {e}"),
    };
    let names = Names::new(parts.resolver, answers);
    let Parts { tls, neighbours, shares, own, .. } = parts;
    let upstream = Upstream::new(shard.clone(), names, tls, neighbours, shares, own);
    upstream.recall(parts.recalled);
    upstream.begin_fixed(parts.fixed);
    let listeners: io::Result<Vec<TcpListener>> =
        doors.main.into_iter().map(TcpListener::from_std).collect();
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err(e) => return format!("its listeners cannot be used: {e}"),
    };
    let acceptor = Acceptor::new(upstream.clone(), Door::Main, parts.clients_max);
    let acceptor = Rc::new(acceptor.spreading(parts.spread));
    let api_acceptor = match open_api(&upstream, doors.api, parts.clients_max) {
        Ok(acceptor) => acceptor,
        Err(e) => return format!("the listener of the API cannot be used: {e}"),
    };
    {
        let upstream = upstream.clone();
        shard::spawn("name look-up task", async move {
            let ended = answered.serve(|answer| upstream.names.deliver(answer)).await;
            log::error!("the shard gets no more look-up answers: {ended:?}");
        });
    }
    upstream.begin_warm();
    upstream.begin_recalled();
    {
        let upstream = upstream.clone();
        shard::spawn("messages of other shards", async move {
            let ended = messages.serve(|message| upstream.deliver(message)).await;
            log::error!("the shard hears no more of other shards: {ended:?}");
        });
    }
    {
        let acceptor = acceptor.clone();
        shard::spawn("clients of other shards", async move {
            let ended = arrivals.serve(|arrival| acceptor.take_in(arrival)).await;
            log::error!("the shard gets no more clients of other shards: {ended:?}");
        });
    }
    let shard_of_loops = shard.clone();
    {
        let (upstream, shard) = (upstream.clone(), shard.clone());
        monoio::spawn(shard.sweep(move |now| upstream.sweep(now)));
    }
    // Taken when the shard opens.
    let closed = Rc::new(Cell::new(Some(listeners)));
    tell_when_warm(&upstream, &closed, report.clone());
    if !shard.config.busy_poll.is_zero() {
        spin::begin(shard.config.busy_poll);
    }
    let ended = orders
        .serve(|order| match order {
            Order::Open => {
                accept_on(closed.take().unwrap_or_default(), &shard_of_loops, &acceptor, &report);
                report.send((index, Report::Ready)).ok();
            }
            Order::Snapshot(to) => {
                let upstream = upstream.clone();
                shard::spawn("latency dump", async move { upstream.send_latency(to).await });
            }
            Order::Remember(to) => {
                // Nobody waits any more for a shard that was busy for so long.
                to.send(upstream.parts(Instant::now())).ok();
            }
            Order::Drain => {
                acceptor.stop();
                if let Some(acceptor) = &api_acceptor {
                    acceptor.stop();
                }
                shard.drain();
            }
        })
        .await;
    format!("it gets no more orders: {ended:?}")
}

/// Reports when the connections are there that are to be ready; not after the shard was told to open without them.
fn tell_when_warm(
    upstream: &Rc<Upstream>,
    closed: &Rc<Cell<Option<Vec<TcpListener>>>>,
    report: Sender<FromShard>,
) {
    let (upstream, closed) = (upstream.clone(), closed.clone());
    shard::spawn("wait for warmth", async move {
        while !upstream.is_warm() {
            monoio::time::sleep(WARM_LOOK_EVERY).await;
            let listeners = closed.take();
            if listeners.is_none() {
                return;
            }
            closed.set(listeners);
        }
        report.send((upstream.shard.index, Report::Warm)).ok();
    });
}

/// Runs the accept loops of clients. When the last of them ends and its clients are served, the shard is empty.
fn accept_on(
    listeners: Vec<TcpListener>,
    shard: &Rc<Shard>,
    acceptor: &Rc<Acceptor>,
    report: &Sender<FromShard>,
) {
    let accepting = Rc::new(Cell::new(listeners.len()));
    for listener in listeners {
        let (acceptor, shard) = (acceptor.clone(), shard.clone());
        let (accepting, report) = (accepting.clone(), report.clone());
        shard::spawn("accept loop", async move {
            acceptor.run(listener).await;
            accepting.set(accepting.get() - 1);
            // The last listener is closed; what they left is served to its end.
            if accepting.get() > 0 {
                return;
            }
            while acceptor.has_clients() {
                monoio::time::sleep(Duration::from_millis(10)).await;
            }
            shard.log.borrow_mut().flush();
            report.send((shard.index, Report::Empty)).ok();
        });
    }
}

/// Runs the accept loop of the proxy's own pages. It has some places beyond the clients', so that an overloaded proxy can
/// still be looked at.
fn open_api(
    upstream: &Rc<Upstream>,
    listener: Option<std::net::TcpListener>,
    clients_max: usize,
) -> io::Result<Option<Rc<Acceptor>>> {
    let Some(listener) = listener else { return Ok(None) };
    let listener = TcpListener::from_std(listener)?;
    let acceptor = Acceptor::new(upstream.clone(), Door::Api, clients_max + API_CLIENTS_MAX);
    let acceptor = Rc::new(acceptor);
    let running = acceptor.clone();
    shard::spawn("accept loop of the API", async move { running.run(listener).await });
    Ok(Some(acceptor))
}
