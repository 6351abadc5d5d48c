//! Owns the judgement: runs each gate under callgrind, holds its counts against the baseline of this architecture, and
//! says what costs more, by how much, where to look and how to accept it. Counts depend on the compiler, so the baseline
//! names it. valgrind shows every program the same processor, so they do not depend on the machine (if it has AVX2).

use std::{
    cmp::Ordering,
    collections::HashMap,
    fmt::{self, Display, Write},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::{Gate, gates};

/// Instructions may be this share above the baseline, or below it, before anything is said.
const SHARE: f64 = 0.03;
/// The same for allocations: whatever grows a buffer now and then is a fraction of one.
const ALLOCATIONS: f64 = 0.5;
/// Makes the counts of this run the baseline.
const ACCEPT: &str = "LACEWING_GATES_ACCEPT=1 tests/run gates";
/// What allocates, as the C library calls it.
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];
/// Without this, long copies are one instruction that callgrind counts once for each byte.
const TUNABLES: &str = "glibc.cpu.hwcaps=-ERMS";

/// Of one call.
#[derive(Clone, Copy)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

impl Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.0} instructions {:>6.1} allocations", self.instructions, self.allocations)
    }
}

/// Against the baseline.
enum Verdict {
    Same,
    Less,
    More,
}

pub fn all() -> ExitCode {
    let accept = std::env::var("LACEWING_GATES_ACCEPT").is_ok_and(|accept| accept == "1");
    let (file, compiler) = (baseline_file(), compiler());
    let text = fs::read_to_string(&file).unwrap_or_default();
    let known = read_baseline(&text);
    let mut fresh = format!("# {compiler}\n# {ACCEPT}\n");
    let (mut failed, mut allocations) = (0, 0.0);
    for gate in gates() {
        let (cost, profile) = measure(gate);
        writeln!(fresh, "{:<16} {cost}", gate.name).unwrap();
        allocations += cost.allocations;
        let before = known.get(gate.name);
        match judge(cost, before.copied()) {
            _ if accept => println!("gate {:<16} {cost}", gate.name),
            Verdict::Same => println!("gate {:<16} {cost}", gate.name),
            Verdict::Less => println!("gate {:<16} {cost}: less than the baseline; lower it: {ACCEPT}", gate.name),
            Verdict::More => {
                failed += 1;
                let before = before.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                println!("gate {:<16} {cost}: FAILED; the baseline has {}", gate.name, before.trim_start());
                println!("  in {}; where: callgrind_annotate --inclusive=yes {}", gate.function, profile.display());
            }
        }
    }
    assert!(allocations > 0.0, "callgrind saw nobody allocate: is an allocator called otherwise than {ALLOCATORS:?}?");
    if accept {
        fs::write(&file, fresh).expect("the baseline is writable");
    } else if failed > 0 {
        let other = text.lines().next().and_then(|line| line.strip_prefix("# ")).filter(|other| *other != compiler);
        other.inspect(|other| println!("the baseline was taken with {other}, and this is {compiler}"));
        println!("where the cost is worth it, accept it: {ACCEPT}");
    }
    println!("test result: gates. {} passed; {failed} failed", gates().count() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn judge(cost: Cost, before: Option<Cost>) -> Verdict {
    let Some(before) = before else { return Verdict::More };
    let (share, allocations) = (cost.instructions / before.instructions - 1.0, cost.allocations - before.allocations);
    if share > SHARE || allocations > ALLOCATIONS {
        return Verdict::More;
    }
    if share < -SHARE || allocations < -ALLOCATIONS { Verdict::Less } else { Verdict::Same }
}

/// Runs one gate; returns what callgrind wrote, too.
fn measure(gate: &Gate) -> (Cost, PathBuf) {
    let program = std::env::current_exe().unwrap();
    let profile = program.with_file_name(format!("gates-{}.callgrind", gate.name));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=yes", "--compress-pos=no"])
        .args(["--collect-atstart=no", "--toggle-collect=*measured*"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(&program)
        .args(["measure", gate.name])
        .env_clear()
        .envs(std::env::var("PATH").map(|path| ("PATH", path)))
        .env("GLIBC_TUNABLES", TUNABLES)
        .output()
        .expect("valgrind is not installed: `tests/run gates` installs it");
    assert!(output.status.success(), "{}: {}", gate.name, String::from_utf8_lossy(&output.stderr));
    let (instructions, allocations) = read_profile(&profile);
    assert!(instructions > 0, "{}: callgrind did not see `measured`", gate.name);
    let times = f64::from(gate.times);
    (Cost { instructions: instructions as f64 / times, allocations: allocations as f64 / times }, profile)
}

/// Instructions in all, and calls of what allocates. callgrind counts calls outside of `measured`, too, so these are told
/// by a function's first instruction. Lines are `fn=(number) name` (the name where it comes first) and then, for each
/// instruction, `address line count`; a line after `calls=` is about what was called.
fn read_profile(file: &Path) -> (u64, u64) {
    let text = fs::read_to_string(file).expect("callgrind has written its file");
    let (mut instructions, mut numbers, mut inside, mut of_call) = (0, HashMap::new(), None, false);
    let mut first: [Option<(u64, u64)>; ALLOCATORS.len()] = Default::default();
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if let Some(known) = ALLOCATORS.iter().position(|allocator| *allocator == name) {
                numbers.insert(number, known);
            }
            if line.starts_with("fn=") {
                inside = numbers.get(number).copied();
            }
        } else if let Some(total) = line.strip_prefix("totals: ") {
            instructions = total.trim().parse().unwrap();
        } else if let (Some(allocator), false, Some(at)) = (inside, of_call, line.strip_prefix("0x")) {
            let mut words = at.split(' ');
            let address = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
            let count: u64 = words.nth(1).unwrap().parse().unwrap();
            let first = first[allocator].get_or_insert((address, 0));
            match address.cmp(&first.0) {
                Ordering::Less => *first = (address, count),
                Ordering::Equal => first.1 += count,
                Ordering::Greater => {}
            }
        }
        of_call = line.starts_with("calls=");
    }
    (instructions, first.iter().flatten().map(|(_, count)| count).sum())
}

fn read_baseline(text: &str) -> HashMap<&str, Cost> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, instructions, _, allocations, _] = words[..] else { return None };
            let cost = Cost { instructions: instructions.parse().ok()?, allocations: allocations.parse().ok()? };
            Some((name, cost))
        })
        .collect()
}

fn baseline_file() -> PathBuf {
    let file = format!("../tests/gates/baseline-{}.txt", std::env::consts::ARCH);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output().expect("rustc is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
