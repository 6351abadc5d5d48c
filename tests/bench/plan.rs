//! What is run, in which order: rounds, in each all places, in each all peers, whose order turns by one from round to
//! round, so that no peer always comes first or always after the same other.

use std::{path::PathBuf, time::Duration};

use super::{
    growth::{self, Growth},
    instructions,
    measures::Measure,
    peers::{Peer, Protocol, Shape},
};

/// Everything that is measured, by place.
const FULL: [(Shape, Protocol, &[Measure]); 10] = [
    (
        Shape::Direct,
        Protocol::H1,
        &[Measure::Saturation, Measure::Rate(1_000), Measure::Rate(200), Measure::Rate(2_000)],
    ),
    (
        Shape::Pair,
        Protocol::H1,
        &[
            Measure::Start,
            Measure::Saturation,
            Measure::Rate(1_000),
            Measure::Rate(200),
            Measure::Rate(2_000),
            Measure::Large,
            Measure::Handshakes,
            Measure::Calls,
        ],
    ),
    (Shape::Pair, Protocol::H2, &[Measure::Saturation, Measure::Large]),
    (Shape::Single, Protocol::H1, &[Measure::Start, Measure::Saturation, Measure::Rate(1_000)]),
    (Shape::Single, Protocol::H2, &[Measure::Saturation]),
    (Shape::Direct, Protocol::Tcp, &[Measure::Stream]),
    (Shape::Pair, Protocol::Tcp, &[Measure::Stream]),
    (Shape::Single, Protocol::Tcp, &[Measure::Stream]),
    // A process of its own: what was measured before would show in its memory.
    (Shape::Pair, Protocol::H1, &[Measure::Memory]),
    (instructions::AT.0, instructions::AT.1, &[Measure::Instructions]),
];
/// What everybody can afford to run.
const SMOKE: [(Shape, Protocol, &[Measure]); 2] =
    [(Shape::Pair, Protocol::H1, &[Measure::Saturation]), (Shape::Pair, Protocol::H2, &[Measure::Saturation])];
/// What a start of a peer takes, until traffic passes, and its end.
const START: Duration = Duration::from_millis(1_500);
const SMOKE_PEERS: [Peer; 2] = [Peer::Lacewing, Peer::Hyper];

/// A run of the bench.
#[derive(Debug)]
pub struct Plan {
    places: &'static [(Shape, Protocol, &'static [Measure])],
    peers: Vec<Peer>,
    /// Parts of names of measurements; empty: all.
    only: Vec<String>,
    pub rounds: usize,
    /// How long a load lasts.
    pub seconds: u64,
    pub json: Option<PathBuf>,
    /// Where the plot of what grows goes.
    pub svg: Option<PathBuf>,
    pub smoke: bool,
    /// Fail where a ratio that must hold does not.
    pub musts: bool,
    /// Everything runs as `SCHED_RR`: for machines that have other work.
    pub real_time: bool,
    /// As it was asked for.
    pub arguments: String,
}

/// One start of one peer.
#[derive(Debug)]
pub struct Step {
    pub peer: Peer,
    pub shape: Shape,
    pub protocol: Protocol,
    pub measures: Vec<Measure>,
}

impl Step {
    /// `pair-h1`
    pub fn name(&self) -> String {
        format!("{:?}-{:?}", self.shape, self.protocol).to_lowercase()
    }
}

impl Plan {
    /// # Errors
    /// An argument that is not known.
    pub fn from_args(args: impl Iterator<Item = String>) -> Result<Self, String> {
        // cargo adds it for benches.
        let args: Vec<String> = args.filter(|arg| arg != "--bench").collect();
        let mut plan = Self {
            places: &FULL,
            peers: Peer::ALL.into(),
            only: Vec::new(),
            rounds: 5,
            seconds: 4,
            json: None,
            svg: None,
            smoke: false,
            musts: false,
            real_time: false,
            arguments: args.join(" "),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "full" => {}
                "smoke" => {
                    plan =
                        Self { places: &SMOKE, peers: SMOKE_PEERS.into(), rounds: 3, seconds: 3, smoke: true, ..plan }
                }
                "--rr" => plan.real_time = true,
                "--musts" => plan.musts = true,
                "--json" => plan.json = Some(value()?.into()),
                "--svg" => plan.svg = Some(value()?.into()),
                "--rounds" => plan.rounds = value()?.parse().map_err(|error| format!("--rounds: {error}"))?,
                "--seconds" => plan.seconds = value()?.parse().map_err(|error| format!("--seconds: {error}"))?,
                "--measures" => plan.only = value()?.split(',').map(str::to_owned).collect(),
                "--peers" => plan.peers = value()?.split(',').map(named).collect::<Result<_, _>>()?,
                other => return Err(format!("no argument {other:?}; see tests/bench/README.md")),
            }
        }
        Ok(plan)
    }

    /// What is run in this round, from 0.
    pub fn steps(&self, round: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for (shape, protocol, measures) in self.places {
            let mut peers: Vec<Peer> = self.peers.iter().copied().filter(|peer| peer.fits(*shape, *protocol)).collect();
            let turn = round % peers.len().max(1);
            peers.rotate_left(turn);
            for peer in peers {
                let mut step = Step { peer, shape: *shape, protocol: *protocol, measures: Vec::new() };
                let place = step.name();
                let wanted = |measure: &Measure| {
                    let name = format!("{place}-{}", measure.name());
                    round < measure.rounds(*shape) && measure.fits(peer) && self.wants(&name)
                };
                step.measures = measures.iter().copied().filter(wanted).collect();
                if !step.measures.is_empty() {
                    steps.push(step);
                }
            }
        }
        steps
    }

    /// What is run after all that, in each of its rounds.
    pub fn growth(&self, round: usize) -> Vec<Growth> {
        let all = if self.smoke || round >= growth::ROUNDS || !self.peers.contains(&Peer::Lacewing) {
            &[][..]
        } else {
            &growth::ALL
        };
        all.iter().copied().filter(|growth| self.wants(&growth.name())).collect()
    }

    /// How long it all takes, about.
    pub fn estimate(&self) -> Duration {
        let step =
            |step: Step| START + step.measures.iter().map(|measure| measure.lasts(self.seconds)).sum::<Duration>();
        let load = Duration::from_secs(self.seconds);
        let rounds = (0..self.rounds).map(|round| {
            let growth = (START + growth::WARM + load) * self.growth(round).len() as u32;
            self.steps(round).into_iter().map(step).sum::<Duration>() + growth
        });
        rounds.sum()
    }

    fn wants(&self, measurement: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| measurement.contains(part.as_str()))
    }
}

fn named(name: &str) -> Result<Peer, String> {
    let all = Peer::ALL.map(Peer::name);
    Peer::ALL
        .into_iter()
        .find(|peer| peer.name() == name)
        .ok_or(format!("no peer {name:?}; there are {}", all.join(", ")))
}
