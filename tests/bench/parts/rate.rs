//! HTTP/1.1 requests on a fixed schedule, over kept connections, from one thread with epoll. A latency counts from the
//! moment that the schedule names, so a stall shows in every request that it held up. An answer that is not 200, or a
//! connection that breaks, is an error and the request is not repeated.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};
use serde_json::{Value, json};

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between looks whether that has passed.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The timer among the connections.
const TICK: u64 = u64::MAX;
/// Room for one read.
const ROOM: usize = 64 * 1024;

pub struct Plan {
    /// Connections are spread over them.
    pub to: Vec<SocketAddr>,
    pub per_second: u64,
    /// Requests of this long first do not count.
    pub warm: Duration,
    pub measured: Duration,
    pub connections: usize,
}

struct Connection {
    socket: TcpStream,
    to: SocketAddr,
    request: Vec<u8>,
    /// What came of the answer so far.
    got: Vec<u8>,
    /// When its request should have been sent.
    due: Instant,
}

/// Sends it all; latencies in microseconds.
pub fn run(plan: &Plan) -> Value {
    let mut load = Load::new(plan);
    let gap = Duration::from_nanos(1_000_000_000 / plan.per_second);
    let total = ((plan.warm + plan.measured).as_nanos() / gap.as_nanos()) as u32;
    let ticks = tick(&load.epoll, gap);
    let (mut sent, began) = (0, Instant::now());
    let first = began + plan.warm;
    let end = began + plan.warm + plan.measured + PATIENCE;
    while sent < total || load.open() {
        let now = Instant::now();
        if now > end {
            break;
        }
        while sent < total && began + gap * sent <= now {
            let due = began + gap * sent;
            load.wanted += usize::from(due >= first);
            load.due.push_back(due);
            sent += 1;
        }
        load.send();
        load.wait(&ticks, first);
    }
    load.report()
}

/// Wakes the loop at each moment of the schedule: epoll's own timeouts are in milliseconds on some kernels.
fn tick(epoll: &OwnedFd, gap: Duration) -> OwnedFd {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags).expect("a timer");
    let gap = Timespec { tv_sec: gap.as_secs().cast_signed(), tv_nsec: gap.subsec_nanos().into() };
    let periodic = Itimerspec { it_interval: gap, it_value: gap };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &periodic).expect("a timer");
    epoll::add(epoll, &timer, epoll::EventData::new_u64(TICK), epoll::EventFlags::IN).expect("room");
    timer
}

struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    due: VecDeque<Instant>,
    took: Vec<Duration>,
    /// Requests that count.
    wanted: usize,
    errors: u64,
    events: Vec<epoll::Event>,
    room: Vec<u8>,
}

impl Load {
    fn new(plan: &Plan) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        let connections: Vec<Connection> =
            (0..plan.connections).map(|at| connect(&epoll, plan.to[at % plan.to.len()], at)).collect();
        Self {
            epoll,
            idle: (0..connections.len()).collect(),
            connections,
            due: VecDeque::new(),
            took: Vec::with_capacity((plan.per_second * plan.measured.as_secs()) as usize),
            wanted: 0,
            errors: 0,
            events: Vec::with_capacity(64),
            room: vec![0; ROOM],
        }
    }

    /// Whether something is under way.
    fn open(&self) -> bool {
        !self.due.is_empty() || self.idle.len() < self.connections.len()
    }

    fn send(&mut self) {
        while !self.due.is_empty() && !self.idle.is_empty() {
            // Round robin: each connection is used as often as any other.
            let (at, due) = (self.idle.pop_front().expect("looked at"), self.due.pop_front().expect("looked at"));
            let connection = &mut self.connections[at];
            connection.due = due;
            connection.got.clear();
            if connection.socket.write_all(&connection.request).is_err() {
                self.broken(at);
            }
        }
    }

    fn wait(&mut self, ticks: &OwnedFd, first: Instant) {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        let events = std::mem::take(&mut self.events);
        for event in &events {
            match event.data.u64() {
                // It goes on only when its count is read.
                TICK => drop(rustix::io::read(ticks, &mut [0; 8])),
                at => self.read(at as usize, first),
            }
        }
        self.events = events; // its room is used again
    }

    fn read(&mut self, at: usize, first: Instant) {
        let connection = &mut self.connections[at];
        match connection.socket.read(&mut self.room) {
            Ok(0) => return self.broken(at),
            Ok(count) => connection.got.extend_from_slice(&self.room[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::Interrupted => return,
            Err(_) => return self.broken(at),
        }
        if let Some(good) = whole(&connection.got) {
            if !good {
                self.errors += 1;
            } else if connection.due >= first {
                self.took.push(connection.due.elapsed());
            }
            self.idle.push_back(at);
        }
    }

    fn broken(&mut self, at: usize) {
        self.errors += 1;
        self.idle.retain(|idle| *idle != at);
        self.connections[at] = connect(&self.epoll, self.connections[at].to, at);
        self.idle.push_back(at);
    }

    fn report(mut self) -> Value {
        self.took.sort_unstable();
        let lost = self.wanted.saturating_sub(self.took.len()) as u64;
        let at = |share: f64| {
            let rank = (self.took.len() as f64 * share).ceil() as usize;
            self.took.get(rank.clamp(1, self.took.len().max(1)) - 1).map_or(0.0, |took| took.as_nanos() as f64 / 1e3)
        };
        json!({
            "requests": self.took.len(), "errors": self.errors.max(lost),
            "p50_us": at(0.50), "p90_us": at(0.90), "p99_us": at(0.99), "p999_us": at(0.999),
        })
    }
}

fn connect(epoll: &OwnedFd, to: SocketAddr, at: usize) -> Connection {
    let socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    socket.set_nodelay(true).expect("a TCP socket");
    socket.set_nonblocking(true).expect("a socket");
    epoll::add(epoll, &socket, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN).expect("room");
    let request = format!("GET / HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes();
    Connection { socket, to, request, got: Vec::new(), due: Instant::now() }
}

/// Whether an answer with a length is complete, and if so whether it is a 200.
pub fn whole(got: &[u8]) -> Option<bool> {
    let head = got.windows(4).position(|four| four == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&got[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    (got.len() >= head + 4 + length?).then(|| text.starts_with("HTTP/1.1 200"))
}
