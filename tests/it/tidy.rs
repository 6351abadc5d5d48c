//! Owns the house rules that a machine can check: a rule is a plain function from sources to violations, and each has
//! a test that it holds for this repository and one that it fails on a bad sample. Exceptions stand in one table, with
//! their reasons; one that is no longer needed is a violation too. Refuses to judge style: rustfmt and clippy do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest file, in lines before its tests.
const MAX_FILE: usize = 500;
/// Longest module doc at the top of a file, in lines. It must be there, and short enough to be read.
const MAX_MODULE_DOC: usize = 8;
/// Most members of the workspace.
const MAX_MEMBERS: usize = 8;
/// Most where-clauses in the proxy, per 1,000 lines of code: type machinery that a reader must get past.
const MAX_WHERE_PER_1000: f64 = 5.0;

/// Files that may be longer than [`MAX_FILE`]: path, longest allowed, reason.
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// Where the code of this repository lies.
const FOLDERS: &[&str] = &["proxy", "controller", "cli", "shared", "tests"];

/// One Rust file.
struct Source {
    /// From the repository's root, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn is_generated(&self) -> bool {
        self.text.starts_with("// Generated ")
    }

    /// Compiled for tests only.
    fn is_test(&self) -> bool {
        let under = |folder: &str| self.path.split('/').any(|part| part == folder);
        let name = self.path.rsplit('/').next().unwrap_or_default();
        under("tests") || under("benches") || matches!(name, "tests.rs" | "testing.rs")
    }

    /// The text before the file's tests.
    fn body(&self) -> &str {
        let mut at = 0;
        let mut lines = self.text.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            let of_tests = line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test");
            let start = at;
            at += line.len();
            if of_tests {
                while let Some(attribute) = lines.next_if(|line| line.starts_with("#[")) {
                    at += attribute.len();
                }
                if lines.peek().is_some_and(|line| line.starts_with("mod ") && line.trim_end().ends_with('{')) {
                    return &self.text[..start];
                }
            }
        }
        &self.text
    }

    /// The text before the file's tests, with nothing in comments and literals.
    fn code(&self) -> String {
        without_comments_and_literals(self.body())
    }

    fn says(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

/// Takes the content out of comments, strings and character literals; lines stay where they are.
fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if !after_word => raw_string_length(rest),
            '\'' => char_length(rest),
            _ => 0,
        };
        if skipped == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
            rest = &rest[skipped..];
        }
    }
    out
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Zero if no raw string starts here.
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let inside = 2 + hashes;
    text[inside..].find(&end).map_or(text.len(), |at| inside + at + end.len())
}

/// Zero for a lifetime.
fn char_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(0, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_name) && !line[at + word.len()..].starts_with(part_of_name))
}

fn file_lengths(sources: &[Source], exceptions: &[(&str, usize, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test() && !source.is_generated()) {
        let lines = source.body().lines().count();
        let exception = exceptions.iter().find(|(path, ..)| *path == source.path);
        let cap = exception.map_or(MAX_FILE, |(_, cap, _)| *cap);
        if lines > cap {
            found.push(source.says(cap, &format!("{lines} lines before the tests, at most {cap}: split by concern")));
        }
    }
    for (path, ..) in exceptions {
        let needed = sources.iter().any(|source| source.path == *path && source.body().lines().count() > MAX_FILE);
        if !needed {
            found.push(format!("{path}: stands in LONG_FILES without need; take it out"));
        }
    }
    found
}

fn module_docs(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.is_generated()) {
        let lines = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        if !(1..=MAX_MODULE_DOC).contains(&lines) {
            let what =
                format!("opens with {lines} lines of `//!`, not 1 to {MAX_MODULE_DOC}: what it owns and refuses");
            found.push(source.says(0, &what));
        }
    }
    found
}

fn workspace_members(manifest: &str) -> Vec<String> {
    let list = manifest.split_once("\nmembers = [").and_then(|(_, rest)| rest.split_once(']'));
    match list.map(|(list, _)| list.matches('"').count() / 2) {
        Some(count) if (1..=MAX_MEMBERS).contains(&count) => vec![],
        count => vec![format!("Cargo.toml: {count:?} workspace members, not 1 to {MAX_MEMBERS}")],
    }
}

fn where_clauses(sources: &[Source]) -> Vec<String> {
    let (mut clauses, mut lines) = (0, 0);
    for source in sources.iter().filter(|source| source.path.starts_with("proxy/src/") && !source.is_test()) {
        let code = source.code();
        lines += code.lines().count();
        clauses += code.lines().filter(|line| has_word(line, "where")).count();
    }
    let rate = clauses as f64 * 1000.0 / lines.max(1) as f64;
    if rate <= MAX_WHERE_PER_1000 {
        return vec![];
    }
    vec![format!(
        "proxy/src: {clauses} where-clauses in {lines} lines are {rate:.1} per 1,000, at most {MAX_WHERE_PER_1000}"
    )]
}

/// A word that may be used in some files only.
struct Confined {
    words: &'static [&'static str],
    /// Followed by this, e.g. `!` for macros.
    then: &'static str,
    /// Files it applies to, by the start of their path.
    under: &'static [&'static str],
    allowed: fn(&str) -> bool,
    rule: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined {
        words: &["print", "println", "eprint", "eprintln", "dbg"],
        then: "!",
        under: &["proxy/", "controller/", "cli/", "shared/"],
        // A build script talks to cargo that way.
        allowed: |path| path.starts_with("cli/src/output") || path == "proxy/build.rs",
        rule: "only cli/src/output prints",
    },
    Confined {
        words: &["unsafe", "unsafe_code"],
        then: "",
        under: FOLDERS,
        allowed: |path| path == "proxy/src/sys.rs",
        rule: "unsafe code lives in proxy/src/sys.rs only",
    },
    Confined {
        words: &["SystemTime::now", "UnixTime::now", "OffsetDateTime::now_utc"],
        then: "",
        under: &["proxy/", "controller/", "cli/", "shared/"],
        allowed: |path| path.ends_with("/clock.rs"),
        rule: "wall time is read in clock.rs only; elsewhere it is a parameter",
    },
    Confined {
        words: &["lacewing_proto"],
        then: "",
        under: &["proxy/", "controller/", "cli/", "shared/"],
        allowed: |path| {
            ["proxy/src/discovery", "proxy/src/certify.rs", "controller/src/grpc"].iter().any(|p| path.starts_with(p))
        },
        rule: "protobuf types stop at proxy/src/discovery, proxy/src/certify.rs and controller/src/grpc",
    },
];

fn confined_words(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for rule in CONFINED {
        let applies = |source: &&Source| {
            rule.under.iter().any(|folder| source.path.starts_with(folder))
                && !source.is_test()
                && !source.is_generated()
                && !(rule.allowed)(&source.path)
        };
        for source in sources.iter().filter(applies) {
            for (number, line) in source.code().lines().enumerate() {
                let used = |word: &&&str| has_word(line, word) && line.contains(&format!("{word}{}", rule.then));
                if let Some(word) = rule.words.iter().find(used) {
                    found.push(source.says(number, &format!("`{word}`: {}", rule.rule)));
                }
            }
        }
    }
    found
}

/// Crates that must not be in a tree, as `cargo tree --prefix none` prints it.
fn banned_crates(tree: &str, banned: &[&str], rule: &str) -> Vec<String> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let mut found: Vec<_> = names.filter(|name| banned.contains(name)).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|name| format!("{name}: {rule}")).collect()
}

/// The phases in docs/life-of-a-request.md: in each numbered line (`1. **accept**: …`) every name in backticks of the
/// form `outbound::accept` or `inbound::accept`. Each must be a function in that spine, or be called there; a numbered
/// line without such a name is a phase that nobody can find.
fn phases(doc: &str, spines: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = 0;
    for (number, line) in doc.lines().enumerate() {
        let numbered =
            line.split_once(". **").is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if !numbered {
            continue;
        }
        seen += 1;
        let names: Vec<_> = line.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
        let known = |spine: &str| spines.iter().find(|(name, _)| *name == spine);
        if !names.iter().any(|(spine, _)| known(spine).is_some()) {
            found.push(format!("docs/life-of-a-request.md:{}: names no function of a spine", number + 1));
        }
        for (spine, function) in names {
            let Some((_, code)) = known(spine) else { continue };
            if !code.lines().any(|line| has_word(line, function) && line.contains(&format!("{function}("))) {
                let what = format!("`{spine}::{function}` is neither defined nor called in proxy/src/{spine}.rs");
                found.push(format!("docs/life-of-a-request.md:{}: {what}", number + 1));
            }
        }
    }
    if seen == 0 {
        found.push("docs/life-of-a-request.md: lists no phase".into());
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the repository").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// The crates that ship in a package, one a line.
fn cargo_tree(package: &str) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-p", package];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations of house rules:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn files_are_short_and_documented() {
    let sources = sources();
    assert_none(&[file_lengths(&sources, LONG_FILES), module_docs(&sources)].concat());
}

#[test]
fn the_workspace_stays_small() {
    assert_none(&workspace_members(&read("Cargo.toml")));
}

#[test]
fn the_proxy_has_little_type_machinery() {
    assert_none(&where_clauses(&sources()));
}

#[test]
fn confined_words_stay_where_they_belong() {
    assert_none(&confined_words(&sources()));
}

#[test]
fn no_kubernetes_in_the_proxy_and_one_tls_stack_everywhere() {
    let proxy = cargo_tree("lacewing-proxy");
    assert!(proxy.contains("rustls v"), "this is not the proxy's tree");
    let mut found = banned_crates(&proxy, &["kube", "kube-core", "kube-client", "k8s-openapi"], "never in the proxy");
    for package in ["lacewing-proxy", "lacewing-controller", "mesh-cli"] {
        let banned = ["ring", "openssl", "openssl-sys", "native-tls"];
        found.extend(banned_crates(&cargo_tree(package), &banned, "a second TLS or cryptographic library"));
    }
    assert_none(&found);
}

#[test]
fn every_documented_phase_exists() {
    let spine = |name: &str| {
        let path = format!("proxy/src/{name}.rs");
        Source { text: read(&path), path }.code()
    };
    let (outbound, inbound) = (spine("outbound"), spine("inbound"));
    assert_none(&phases(&read("docs/life-of-a-request.md"), &[("outbound", &outbound), ("inbound", &inbound)]));
}

mod bad_samples;
mod settings;
