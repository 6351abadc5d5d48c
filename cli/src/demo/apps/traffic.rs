//! The load generator: an open loop of page views and votes at a fixed rate, and one long TCP connection to echo.
//!
//! Open loop: a slow mesh does not slow it down, as slow shops do not slow down the arrival of customers. What cannot be
//! sent because too much is under way is counted and logged, not queued.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};

use super::{Settings, authority, client::Http1, emoji::EMOJI, voting::UNCOUNTABLE};
use crate::demo::cast::App;

/// Requests under way at a time.
const IN_FLIGHT_MAX: usize = 256;
/// Share of the requests that are votes; the others look at the page.
const VOTES: f64 = 0.5;
/// Share of the votes that go to the doughnut, and fail.
const DOUGHNUTS: f64 = 0.08;
const WEB_PORT: u16 = 8080;
/// Time between two lines to echo, and before a lost connection is made again.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How often skipped requests are logged.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Sends for as long as it is polled.
pub async fn run(settings: &Settings) {
    if let Some(entry) = settings.echo {
        tokio::spawn(talk_to_echo(entry));
    }
    let client = Arc::new(Http1::new(settings.proxy, authority(App::Web, WEB_PORT)));
    let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut every = interval(Duration::from_secs(1) / settings.rps.max(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut report = interval(REPORT_INTERVAL);
    let mut skipped = 0_u64;
    loop {
        tokio::select! {
            _ = every.tick() => match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    let client = client.clone();
                    tokio::spawn(async move {
                        if let Err(error) = client.get(&next_path()).await {
                            tracing::warn!(%error, "no answer from web");
                        }
                        drop(slot);
                    });
                }
                Err(_) => skipped += 1,
            },
            _ = report.tick() => if skipped > 0 {
                tracing::warn!(skipped, "requests not sent: {IN_FLIGHT_MAX} were under way");
                skipped = 0;
            },
        }
    }
}

fn next_path() -> String {
    if fastrand::f64() >= VOTES {
        return "/".to_owned();
    }
    if fastrand::f64() < DOUGHNUTS {
        return format!("/vote/{UNCOUNTABLE}");
    }
    loop {
        let (name, _) = EMOJI[fastrand::usize(..EMOJI.len())];
        if name != UNCOUNTABLE {
            return format!("/vote/{name}");
        }
    }
}

async fn talk_to_echo(entry: SocketAddr) {
    loop {
        if let Err(error) = conversation(entry).await {
            tracing::warn!(%error, "lost the connection to echo");
        }
        tokio::time::sleep(LINE_INTERVAL).await;
    }
}

async fn conversation(entry: SocketAddr) -> io::Result<()> {
    let (read, mut write) = TcpStream::connect(entry).await?.into_split();
    let mut answers = BufReader::new(read).lines();
    for n in 1_u64.. {
        let line = format!("line {n}");
        write.write_all(format!("{line}\n").as_bytes()).await?;
        match answers.next_line().await? {
            Some(answer) if answer == line => {}
            Some(answer) => return Err(io::Error::other(format!("said {line:?}, heard {answer:?}"))),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        tokio::time::sleep(LINE_INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_eight_percent_of_the_votes_fail() {
        fastrand::seed(7);
        let paths: Vec<String> = (0..20_000).map(|_| next_path()).collect();
        let votes = paths.iter().filter(|path| path.starts_with("/vote/")).count() as f64;
        let failing = paths.iter().filter(|path| path.ends_with(UNCOUNTABLE)).count() as f64;
        assert!((0.45..0.55).contains(&(votes / 20_000.0)), "{votes}");
        assert!((0.06..0.10).contains(&(failing / votes)), "{failing} of {votes}");
    }
}
