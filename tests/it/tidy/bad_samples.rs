//! Shows that each rule of `tidy.rs` can fail: one small bad sample per rule, and a good one beside it.
//! Refuses to look at the repository: that is what the rules' own tests do.

use super::*;

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

#[track_caller]
fn assert_one(violations: &[String], part: &str) {
    assert!(violations.len() == 1 && violations[0].contains(part), "{part}: {violations:?}");
}

#[test]
fn long_files() {
    let long = "x\n".repeat(MAX_FILE + 1);
    assert_one(&file_lengths(&[source("cli/src/a.rs", &long)], &[]), "cli/src/a.rs:501: 501 lines");
    assert_none(&file_lengths(&[source("cli/src/a.rs", &"x\n".repeat(MAX_FILE))], &[]));
    // Tests do not count, in the file or beside it; generated code neither.
    let tested = format!("x\n#[cfg(test)]\n#[cfg(feature = \"y\")]\nmod tests {{\n{long}}}\n");
    let generated = format!("// Generated from z.\n{long}");
    let exempt = [
        source("cli/src/a.rs", &tested),
        source("cli/src/a/tests.rs", &long),
        source("tests/it/a.rs", &long),
        source("shared/proto/src/a.rs", &generated),
    ];
    assert_none(&file_lengths(&exempt, &[]));
    // Code after a declaration of tests in their own file counts.
    let declared = format!("#[cfg(test)]\nmod tests;\n{long}");
    assert_one(&file_lengths(&[source("cli/src/a.rs", &declared)], &[]), "503 lines");
}

#[test]
fn exceptions_for_long_files() {
    let long = [source("cli/src/a.rs", &"x\n".repeat(600))];
    assert_none(&file_lengths(&long, &[("cli/src/a.rs", 600, "a table")]));
    assert_one(&file_lengths(&long, &[("cli/src/a.rs", 599, "a table")]), "at most 599");
    let needless = [("cli/src/a.rs", 600, "a table"), ("cli/src/gone.rs", 600, "it was long")];
    let violations = file_lengths(&[source("cli/src/a.rs", "x\n")], &needless);
    assert!(violations.len() == 2 && violations.iter().all(|text| text.contains("without need")), "{violations:?}");
}

#[test]
fn missing_and_endless_module_docs() {
    assert_one(&module_docs(&[source("cli/src/a.rs", "use a;\n//! late\n")]), "opens with 0 lines");
    assert_one(&module_docs(&[source("cli/src/a.rs", &"//! on and on\n".repeat(9))]), "opens with 9 lines");
    assert_none(&module_docs(&[source("cli/src/a.rs", "//! Owns a.\n"), source("b.rs", "// Generated from c.\n")]));
}

#[test]
fn many_members() {
    let manifest = |count: usize| format!("[workspace]\nmembers = [{}]\n", "\"a\", ".repeat(count));
    assert_one(&workspace_members(&manifest(9)), "Some(9) workspace members");
    assert_one(&workspace_members("[package]\n"), "None workspace members");
    assert_none(&workspace_members(&manifest(8)));
}

#[test]
fn many_where_clauses() {
    let code = |clauses: usize| format!("{}{}", "fn a()\nwhere\n".repeat(clauses), "x\n".repeat(1000 - 2 * clauses));
    assert_one(&where_clauses(&[source("proxy/src/a.rs", &code(6))]), "6 where-clauses in 1000 lines");
    assert_none(&where_clauses(&[source("proxy/src/a.rs", &code(5)), source("cli/src/a.rs", &code(100))]));
    assert_none(&where_clauses(&[source("proxy/src/a.rs", "// where\nlet nowhere = \"where\";\n")]));
}

#[test]
fn words_outside_their_files() {
    let table = [
        ("proxy/src/a.rs", "fn a() {\n    println!(\"x\");\n}\n", "proxy/src/a.rs:2: `println`"),
        ("cli/src/commands/a.rs", "eprint!(\"x\")", "only cli/src/output prints"),
        ("controller/src/a.rs", "dbg!(x)", "`dbg`"),
        ("proxy/src/a.rs", "unsafe { f() }", "proxy/src/sys.rs only"),
        ("cli/src/a.rs", "#![allow(unsafe_code)]", "`unsafe_code`"),
        ("proxy/src/a.rs", "let now = std::time::SystemTime::now();", "clock.rs only"),
        ("shared/identity/src/a.rs", "UnixTime::now()", "clock.rs only"),
        ("proxy/src/route.rs", "use lacewing_proto::control::Route;", "protobuf types stop"),
        ("controller/src/world.rs", "fn a(x: lacewing_proto::control::X) {}", "protobuf types stop"),
    ];
    for (path, text, part) in table {
        assert_one(&confined_words(&[source(path, text)]), part);
    }
}

#[test]
fn words_where_they_belong() {
    let table = [
        ("cli/src/output.rs", "println!(\"x\")"),
        ("cli/src/output/table.rs", "eprintln!(\"x\")"),
        ("proxy/build.rs", "println!(\"cargo::rerun-if-changed=build.rs\")"),
        ("proxy/src/sys.rs", "#![allow(unsafe_code)]\nunsafe { f() }"),
        ("proxy/src/clock.rs", "SystemTime::now()"),
        ("proxy/src/discovery/parse.rs", "use lacewing_proto::control::X;"),
        ("proxy/src/certify.rs", "use lacewing_proto::control::X;"),
        ("controller/src/grpc/convert.rs", "use lacewing_proto::control::X;"),
        ("proxy/src/a/tests.rs", "println!(\"x\")"),
        ("proxy/src/a.rs", "let a = \"unsafe println!()\"; // unsafe, SystemTime::now()\n/* dbg!(x) */"),
        ("proxy/src/a.rs", "let a = r#\"say \"unsafe\" aloud\"#; let b = '\"'; let c = b\"unsafe\";"),
        ("proxy/src/a.rs", "fn fingerprint<'a>(print: &'a str) -> &'a str { print }"),
        ("proxy/src/a.rs", "x\n#[cfg(test)]\nmod tests {\n    println!(\"x\");\n}\n"),
    ];
    for (path, text) in table {
        assert_none(&confined_words(&[source(path, text)]));
    }
    // A literal ends where it ends: what follows is seen again.
    for before in ["'\"';", "\"\\\"\";", "r#\"\"\"#;", "'\\'';", "'\\\\';", "// it's\n", "/* \" */", "&'a str;"] {
        assert_one(&confined_words(&[source("proxy/src/a.rs", &format!("{before} unsafe"))]), "sys.rs only");
    }
}

#[test]
fn banned_crates_in_a_tree() {
    let tree = "lacewing-proxy v0.1.0 (/x)\nkube v5.0.0\nkube v5.0.0 (*)\nkubelike v1.0.0\nrustls v0.23.46\n";
    assert_one(&banned_crates(tree, &["kube", "ring"], "never"), "kube: never");
    assert_none(&banned_crates(tree, &["k8s-openapi"], "never"));
}

#[test]
fn phases_that_nobody_can_find() {
    let spines =
        [("outbound", "pub async fn accept(x: X) {\n    detect(x);\n}\n"), ("inbound", "async fn accept() {}")];
    let good =
        "Prose.\n1. **accept**: `outbound::accept` takes it.\n2. **detect** — `outbound::detect` (`detect.rs`)\n";
    assert_none(&phases(good, &spines));
    let table = [
        ("1. **route**: `outbound::route`", "`outbound::route` is neither defined nor called"),
        ("1. **detect**: `inbound::detect`", "`inbound::detect` is neither"),
        ("1. **accept**: `outbound::acc`", "neither"),
        ("1. **accept**: in `listen.rs`", "names no function of a spine"),
        ("12. **x**: `outbound::accept`, then `inbound::gone`", "`inbound::gone`"),
        ("Prose only, and `outbound::accept`.", "lists no phase"),
    ];
    for (doc, part) in table {
        assert_one(&phases(doc, &spines), part);
    }
}
