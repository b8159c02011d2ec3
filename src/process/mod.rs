//! One process: what it needs is probed and set up, shards are started, signals are answered, the end is orderly.

#![forbid(unsafe_code)]

mod advice;
mod inherited;
mod listeners;
mod notify;
mod pages;
mod pid_file;
mod shards;

use crate::{
    config::{AccessLogTo, ApiAt, Config},
    limits::DESCRIPTORS_RESERVED,
    observe::{
        access_log::LogSink,
        diagnostics::Diagnostics,
        latency::LatencyReport,
        writer::{Writer, WriterHandle},
    },
    shard::{
        mailbox::{Mailbox, mailbox},
        runtime,
        sys::{self, SignalSet},
    },
    upstream::{
        Shares,
        dns::Resolver,
        fixed,
        lend::Neighbours,
        own::Own,
        tls::{Roots, Tls},
    },
};
use inherited::Inherited;
use listeners::Listeners;
use notify::notify;
use pid_file::PidFile;
use shards::{Doors, FromShard, Order, Parts, Report, Unshared};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// How long shards may take to send their histograms; one that is busy longer is left out of the dump.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(5);

/// How long the log may take to be written at the end.
const LOG_WITHIN: Duration = Duration::from_secs(2);

/// What wakes the process.
enum Event {
    Signal(i32),
    Shard(usize, Report),
}

/// Tries everything that a start needs, and serves nothing. Returns the exit status: 0, or 2 when something is
/// missing; all of it is said.
pub fn check(config: &Config) -> i32 {
    let mut mistakes = Vec::new();
    let mut is_successor = false;
    // First, as in `run`.
    match adopt() {
        Ok((none, note)) if none.is_empty() => {
            mistakes.extend(listeners::bind(config.listen, 1).err());
            if let Some(note) = note {
                eprintln!("warning: {note}");
            }
        }
        Ok((_inherited, _note)) => is_successor = true,
        Err(why) => mistakes.push(why),
    }
    if let ApiAt::Address(address) = config.api {
        mistakes.extend(listeners::bind_api(address, is_successor).err());
    }
    mistakes.extend(runtime::probe().err());
    mistakes.extend(Tls::new().err());
    if let Some(url) = &config.upstream {
        let resolver = start_resolver(config);
        mistakes.extend(resolver.and_then(|resolver| fixed::resolve(&resolver, url)).err());
    }
    for variable in &config.ignored_variables {
        eprintln!("warning: this variable is not used: {variable}");
    }
    for mistake in &mistakes {
        eprintln!("{mistake}");
    }
    if mistakes.is_empty() {
        println!("chocon-uring: flags, addresses, directories and certificates are in order");
        return 0;
    }
    2
}

/// Runs the proxy until it is told to end. Returns the exit status: 0 after an orderly end, 1 if it could not start, if
/// requests had to be cut, or if a shard died.
pub fn run(config: Config) -> i32 {
    // Before this process opens any descriptor of its own.
    let inherited = adopt();
    // Before any thread starts, so that all of them have these blocked and one takes them.
    let signals =
        match SignalSet::block(&[libc::SIGUSR1, libc::SIGHUP, libc::SIGTERM, libc::SIGINT]) {
            Ok(signals) => signals,
            Err(e) => {
                eprintln!("chocon-uring: signals cannot be set up: {e}");
                return 1;
            }
        };
    let writer = match Writer::start(&config.access_log) {
        Ok(writer) => writer,
        Err(e) => {
            eprintln!("chocon-uring: {e}");
            return 1;
        }
    };
    // Fails only if a logger is installed already, which is nobody's but ours.
    Diagnostics::install(writer.handle(), config.log_level).ok();
    if !config.ignored_variables.is_empty() {
        log::warn!("variables that are not used: {}", config.ignored_variables.join(", "));
    }
    let started = inherited.and_then(|inherited| start(config, &writer, signals, inherited));
    let status = match started {
        Ok(process) => process.serve(),
        Err(why) => {
            log::error!("{why}");
            1
        }
    };
    writer.finish(LOG_WITHIN);
    status
}

/// Sockets passed by a supervisor, and what is to be told about that.
type Adopted = (Vec<Inherited>, Option<String>);

fn adopt() -> Result<Adopted, String> {
    inherited::adopt(|name| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned()))
}

struct Process {
    config: Arc<Config>,
    writer: WriterHandle,
    /// Held for its removal at the end.
    _pid_file: Option<PidFile>,
    orders: Vec<Mailbox<Order>>,
    events: Receiver<Event>,
}

fn start(
    config: Config,
    writer: &Writer,
    signals: SignalSet,
    (inherited, note): Adopted,
) -> Result<Process, String> {
    let config = Arc::new(config);
    let descriptors = sys::raise_descriptor_limit()
        .map_err(|e| format!("the limit of open files cannot be read: {e}"))?;
    let flags = runtime::probe()?;
    let (tls, roots) = Tls::new()?;
    let resolver = start_resolver(&config)?;
    let upstream = config.upstream.as_ref();
    let fixed = upstream.map_or(Ok(None), |url| fixed::resolve(&resolver, url))?;
    let cpus = runtime::cpus();
    let count = config.cores.unwrap_or(cpus.len().max(1));
    if count > cpus.len() {
        let have = cpus.len();
        log::warn!(
            "{count} shards share {have} CPUs; they go round robin. --cores {have} is faster"
        );
    }
    if let Some(note) = note {
        log::warn!("{note}");
    }
    let is_successor = !inherited.is_empty();
    let Listeners { of_shard, addresses } = match inherited.is_empty() {
        true => listeners::bind(config.listen, count)?,
        false => listeners::share(inherited, count)?,
    };
    let pages = pages::set_up(&config, count, cpus.len(), is_successor)?;
    let (report, events) = forward_signals(signals)?;
    let room =
        usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED)).unwrap_or(usize::MAX);
    // A client may be idle without an origin connection, but not the other way round for long: origins need fewer.
    let (clients, origins) = (room / 8 * 5, room / 8 * 3);
    let (clients_max, open_max) = ((clients / count).max(1), (origins / count).max(1));
    let own = addresses.iter().map(|(at, _)| *at).chain(pages.apart.iter().map(|(_, at)| *at));
    if let Some((_, at)) = &pages.apart {
        log::info!("/.api/ is at {at}");
    }
    let mailboxes: Result<Vec<_>, _> = (0..count).map(|_| mailbox()).collect();
    let mailboxes = mailboxes.map_err(|e| format!("a shard's mailbox cannot be made: {e}"))?;
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) = mailboxes.into_iter().unzip();
    let parts = Parts {
        config: config.clone(),
        flags,
        tls,
        resolver,
        fixed,
        neighbours: Neighbours::new(mailboxes),
        shares: Shares { idle_per_origin_max: config.keepalive_conns.div_ceil(count), open_max },
        clients_max,
        own: Own::new(own.collect()),
        counters: pages.counters,
        api: pages.api,
    };
    let mut apart = pages.apart;
    let mut orders = Vec::with_capacity(count);
    for (index, (listeners, messages)) in of_shard.into_iter().zip(inboxes).enumerate() {
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let (to, format) = (&config.access_log, config.access_log_format);
        let log = LogSink::new(writer.handle(), to, format, index);
        // One shard is enough for what is asked for some times a minute.
        let doors = Doors { main: listeners, api: apart.take().map(|(listener, _)| listener) };
        let unshared = Unshared { index, cpu, doors, log, messages };
        let started = shards::start(unshared, parts.clone(), report.clone());
        orders.push(started.map_err(|e| format!("shard {index} cannot be started: {e}"))?);
    }
    let writer = writer.handle();
    let mut process = Process { config, writer, orders, events, _pid_file: None };
    process.wait_until_ready()?;
    if let Some(path) = &process.config.pid_file {
        process._pid_file = Some(PidFile::write(path, std::process::id())?);
    }
    log::info!(
        "io_uring with {flags}; a shard serves at most {clients_max} clients over {open_max} origin connections (open \
         files: {descriptors})"
    );
    announce(roots, addresses, count);
    notify("READY=1");
    Ok(process)
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

fn start_resolver(config: &Config) -> Result<Resolver, String> {
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
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })
        .map_err(no_thread)?;
    Ok((report, received))
}

impl Process {
    fn wait_until_ready(&self) -> Result<(), String> {
        let mut ready = 0;
        while ready < self.orders.len() {
            match self.events.recv() {
                Ok(Event::Shard(_, Report::Ready)) => ready += 1,
                Ok(Event::Shard(index, Report::Died(why))) => {
                    return Err(format!("shard {index} cannot be started: {why}"));
                }
                Ok(
                    Event::Signal(libc::SIGUSR1 | libc::SIGHUP) | Event::Shard(_, Report::Empty),
                ) => {}
                Ok(Event::Signal(signal)) => return Err(format!("ended by signal {signal}")),
                Err(_) => return Err("the shards are gone".to_owned()),
            }
        }
        Ok(())
    }

    fn serve(&self) -> i32 {
        loop {
            match self.events.recv() {
                Ok(Event::Signal(libc::SIGUSR1)) => self.dump(),
                Ok(Event::Signal(libc::SIGHUP)) => self.reopen(),
                Ok(Event::Signal(_)) => return self.drain(),
                Ok(Event::Shard(index, Report::Died(why))) => return died(index, &why),
                Ok(Event::Shard(_, Report::Ready | Report::Empty)) => {}
                Err(_) => return died(0, "all threads are gone"),
            }
        }
    }

    /// Writes the latency of all origins, merged over the shards. On a thread of its own: formatting and files take their
    /// time, and neither shards nor signals wait for it.
    fn dump(&self) {
        let (to, snapshots) = mpsc::channel();
        for orders in &self.orders {
            if orders.send(Order::Snapshot(to.clone())).is_err() {
                log::warn!("a shard is too busy for the latency dump; it is left out");
            }
        }
        let config = self.config.clone();
        let write = move || {
            let mut report = LatencyReport::default();
            let deadline = Instant::now() + SNAPSHOT_WITHIN;
            while let Ok(of_shard) =
                snapshots.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                of_shard.into_iter().for_each(|snapshot| report.merge(snapshot));
            }
            for line in report.table().lines() {
                log::info!("{line}");
            }
            if let Some(dir) = &config.hdr_dir {
                match report.write_hgrm(dir) {
                    Ok(files) => log::info!("{files} histograms written to {}", dir.display()),
                    Err(e) => log::error!("histograms cannot be written to {}: {e}", dir.display()),
                }
            }
        };
        drop(to);
        if let Err(e) = thread::Builder::new().name("dump".into()).spawn(write) {
            log::error!("the latency dump cannot be made: {e}");
        }
    }

    /// Has the log files opened by their names again, for whoever has moved them away.
    fn reopen(&self) {
        let unchanged = match &self.config.access_log {
            AccessLogTo::Directory(files) if self.writer.reopen() => {
                return log::info!("the access log in {} is opened anew", files.dir.display());
            }
            AccessLogTo::Directory(_) => {
                return log::warn!("the access log is too busy to be opened anew; try again");
            }
            AccessLogTo::Stderr => "goes to stderr, which stays as it is",
            AccessLogTo::Stdout => "goes to stdout, which stays as it is",
            AccessLogTo::Off => "is off",
        };
        log::info!("SIGHUP: nothing to reopen: the access log {unchanged}");
    }

    /// Lets the shards finish. A second signal, or the end of `--shutdown-timeout`, ends at once.
    fn drain(&self) -> i32 {
        let within = self.config.shutdown_timeout;
        log::info!("ending: requests under way have {within:?} to finish");
        notify("STOPPING=1");
        for orders in &self.orders {
            if orders.send(Order::Drain).is_err() {
                log::warn!("a shard is too busy to be told to end");
            }
        }
        let deadline = Instant::now() + within;
        let mut left = self.orders.len();
        while left > 0 {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Shard(_, Report::Empty)) => left -= 1,
                Ok(Event::Shard(index, Report::Died(why))) => return died(index, &why),
                Ok(Event::Shard(_, Report::Ready)) => {}
                Ok(Event::Signal(libc::SIGUSR1)) => self.dump(),
                Ok(Event::Signal(libc::SIGHUP)) => self.reopen(),
                Ok(Event::Signal(_)) => {
                    log::warn!("ended at once by a second signal; requests were cut");
                    return 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    log::warn!("--shutdown-timeout passed; requests were cut");
                    return 1;
                }
                Err(RecvTimeoutError::Disconnected) => return died(0, "all threads are gone"),
            }
        }
        log::info!("ended: nothing was cut");
        0
    }
}

fn died(index: usize, why: &str) -> i32 {
    log::error!(
        "shard {index} died: {why}. The process ends; its supervisor should start it again"
    );
    1
}
