//! From a configuration to shards that serve.

#![forbid(unsafe_code)]

use super::{
    Event, NotStarted, Process, advice,
    descriptors::{self, Connections},
    dumps::Dumps,
    inherited::Adopted,
    listeners::{self, Listeners},
    notify::notify,
    pages,
    pid_file::PidFile,
    shards::{self, Doors, FromShard, Parts, Unshared},
    state_file::{self, Recalled, StateSaver},
};
use crate::{
    config::Config,
    downstream::{accept::Spread, balance::Balance},
    limits::{ARRIVALS_MAX, MAILBOX_MAX},
    observe::{access_log::LogSink, writer::Writer},
    shard::{
        mailbox::{Inbox, Mailbox, with_room},
        runtime,
        sys::{self, SignalSet},
    },
    upstream::{
        Shares,
        dns::Resolver,
        fixed,
        neighbours::Neighbours,
        own::Own,
        tls::{Roots, Tls, gather_randomness},
    },
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

/// Sets up what is shared, starts the shards and waits until all of them accept, which they do when they are warm.
pub fn start(
    config: Config,
    writer: &Writer,
    signals: SignalSet,
    (inherited, note): Adopted,
) -> Result<Process, NotStarted> {
    let config = Arc::new(config);
    let descriptors = sys::raise_descriptor_limit()
        .map_err(|e| format!("the limit of open files cannot be read: {e}"))?;
    let flags = runtime::probe()?;
    // Beside the rest of the start. It ends by itself; without it a handshake does the same.
    thread::Builder::new().name("randomness".into()).spawn(gather_randomness).ok();
    let (tls, roots) = Tls::new()?;
    let recalled = config.state_file.as_deref().map(state_file::read).unwrap_or_default();
    let Recalled { state: recalled, note: state_note } = recalled;
    let resolver = start_resolver(&config)?;
    let fixed = fixed::resolve(&resolver, &config)?;
    let cpus = runtime::cpus();
    let count = count_of_shards(&config, cpus.len());
    if let Some(note) = advice::on_shards(count, cpus.len()) {
        log::warn!("{note}");
    }
    for note in note.iter().chain(&state_note) {
        log::warn!("{note}");
    }
    config.proxies.notes().iter().for_each(|note| log::info!("{note}"));
    advice::on_flags(&config).iter().for_each(|note| log::warn!("{note}"));
    // Before any of them is bound, which would fail with less to say.
    descriptors::share(descriptors, count, count)?;
    let is_successor = !inherited.is_empty();
    let Listeners { of_shard, addresses } = match inherited.is_empty() {
        true => listeners::bind(config.listen, count)?,
        false => listeners::share(inherited, count)?,
    };
    let listening = of_shard.iter().map(Vec::len).sum();
    let Connections { clients_max, origins_max } =
        descriptors::share(descriptors, count, listening)?;
    let pages = pages::set_up(&config, count, cpus.len(), is_successor)?;
    let (report, events) = forward_signals(signals)?;
    let own = addresses.iter().map(|(at, _)| *at).chain(pages.apart.iter().map(|(_, at)| *at));
    if let Some((_, at)) = &pages.apart {
        log::info!("/.api/ is at {at}");
    }
    let (to_shards, messages) = mailboxes(count, MAILBOX_MAX)?;
    let (clients_to_shards, arrivals) = mailboxes(count, ARRIVALS_MAX)?;
    let balance = Balance::new(count, clients_max);
    let parts = Parts {
        config: config.clone(),
        flags,
        tls,
        resolver,
        fixed,
        recalled: recalled.clone(),
        neighbours: Neighbours::new(to_shards, config.max_conns_per_host),
        shares: Shares {
            shards: count,
            idle_per_origin_max: config.keepalive_conns.div_ceil(count),
            open_max: origins_max,
        },
        clients_max,
        spread: Arc::new(Spread { balance, mailboxes: clients_to_shards }),
        own: Own::new(own.collect()),
        counters: pages.counters,
        api: pages.api,
    };
    let mut apart = pages.apart;
    let mut orders = Vec::with_capacity(count);
    let inboxes = messages.into_iter().zip(arrivals);
    for (index, (listeners, (messages, arrivals))) in of_shard.into_iter().zip(inboxes).enumerate()
    {
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let (to, format) = (&config.access_log, config.access_log_format);
        let log = LogSink::new(writer.handle(), to, format, index);
        // One shard is enough for what is asked for some times a minute.
        let doors = Doors { main: listeners, api: apart.take().map(|(listener, _)| listener) };
        let unshared = Unshared { index, cpu, doors, log, messages, arrivals };
        let started = shards::start(unshared, parts.clone(), report.clone());
        orders.push(started.map_err(|e| format!("shard {index} cannot be started: {e}"))?);
    }
    let writer = writer.handle();
    let dumps = Dumps::start(config.clone(), orders.clone())
        .map_err(|e| format!("a thread cannot be started: {e}"))?;
    let mut process =
        Process { config, writer, orders, dumps, events, state: None, _pid_file: None };
    // A floor that is learned later is nothing that a start could wait for.
    let is_cold = process.config.warm.is_empty() && recalled.0.is_empty();
    process.open(if is_cold { Duration::ZERO } else { process.config.warm_wait })?;
    if let Some(path) = process.config.state_file.clone() {
        let saver = StateSaver::start(path, recalled, process.orders.clone());
        process.state = Some(saver.map_err(|e| format!("a thread cannot be started: {e}"))?);
    }
    if let Some(path) = &process.config.pid_file {
        process._pid_file = Some(PidFile::write(path, std::process::id())?);
    }
    log::info!(
        "io_uring with {flags}; a shard serves at most {clients_max} clients over {origins_max} origin connections (open \
         files: {descriptors})"
    );
    announce(roots, addresses, count);
    notify("READY=1");
    Ok(process)
}

type Both<M> = (Vec<Mailbox<M>>, Vec<Inbox<M>>);

/// One for each shard, by its index, each with `room` for so many messages.
fn mailboxes<M>(shards: usize, room: usize) -> Result<Both<M>, String> {
    let all: io::Result<Vec<_>> = (0..shards).map(|_| with_room(room)).collect();
    let all = all.map_err(|e| format!("a shard's mailbox cannot be made: {e}"))?;
    Ok(all.into_iter().unzip())
}

/// Says what is served, and on what terms.
fn announce(roots: Roots, addresses: Vec<(SocketAddr, Option<String>)>, count: usize) {
    match roots {
        Roots::System(n) => log::info!("TLS trusts {n} certificates of this system"),
        Roots::BuiltIn(n) => {
            log::warn!("this system has no trusted certificates; TLS uses {n} that are built in");
        }
    }
    if let Some(advice) = advice::on_kernel() {
        log::info!("{advice}");
    }
    for (address, inherited) in addresses {
        match inherited {
            None => log::info!("listening on {address} with {count} shards"),
            Some(name) => log::info!(
                "listening on {address} with {count} shards: it is {name}; --listen and --port are not used"
            ),
        }
    }
}

pub fn count_of_shards(config: &Config, cpus: usize) -> usize {
    config.cores.unwrap_or(cpus.max(1))
}

pub fn start_resolver(config: &Config) -> Result<Resolver, String> {
    Resolver::start(config.hosts_file, &config.dns_servers)
        .map_err(|e| format!("the resolver cannot be started: {e}"))
}

/// Starts the thread that waits for signals; it and the shards report to one place.
fn forward_signals(signals: SignalSet) -> Result<(Sender<FromShard>, Receiver<Event>), String> {
    let (events, received) = mpsc::channel();
    let (report, reports) = mpsc::channel::<FromShard>();
    let no_thread = |e| format!("a thread cannot be started: {e}");
    let from_shards = events.clone();
    thread::Builder::new()
        .name("reports".into())
        .spawn(move || {
            for (index, report) in reports {
                if from_shards.send(Event::Shard(index, report)).is_err() {
                    return;
                }
            }
        })
        .map_err(no_thread)?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                if events.send(Event::Signal(signal.into())).is_err() {
                    return;
                }
            }
        })
        .map_err(no_thread)?;
    Ok((report, received))
}
