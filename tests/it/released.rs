//! Proxies and controllers of different releases speak with each other. `shared/proto/released/` has the protocol of each
//! release as it was; here today's is held against it: no field changes its meaning, today's controller answers what a
//! released proxy asks as its own controller did, and today's proxy carries traffic on a released controller's answers.
//!
//! `LACEWING_GEN=1` (or `just gen`) writes the dialogue of the release that is in the making, and only that.

mod frames;
mod schema;
mod speakers;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lacewing_tests::{solo::Solo, wait::until};
use serde_json::{Value, json};

use schema::Schema;
use speakers::{FakeController, converse};

const PATIENCE: Duration = Duration::from_secs(20);
/// Stands for the first three bytes of the addresses, which differ from run to run.
const SUBNET: &str = "$SUBNET";

/// One folder for each minor release whose proxies may still run, the latest last: one minor version both ways.
fn releases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/proto/released");
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).expect("the released protocols").map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    assert!(!found.is_empty(), "no released protocol");
    found
}

/// What a proxy asked, and what it was answered: `[{"key": …, "answer": …}]`, in the release's own words.
fn dialogue(release: &Path) -> Vec<Value> {
    let path = release.join("dialogue.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the client's proxy of a `Solo` with two servers asks.
fn questions() -> Vec<Value> {
    let backend = json!({"namespace": "it", "service": "server", "port": 8080});
    vec![
        json!({"trust": {}}),
        json!({"inbound": "client"}),
        json!({"target": "server.it:8080"}),
        json!({"target": "nobody.it:8080"}),
        json!({"target": "10.96.9.1:8080"}),
        json!({"endpoints": backend}),
    ]
}

fn with_subnet(value: &Value, from: &str, to: &str) -> Value {
    serde_json::from_str(&value.to_string().replace(from, to)).expect("the same JSON with other addresses")
}

#[test]
fn no_field_changes_its_meaning() {
    let now = Schema::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/proto/proto/control.proto"));
    for release in releases() {
        let broken = Schema::read(&release.join("control.proto")).broken_by(&now);
        assert!(broken.is_empty(), "{} cannot be spoken with: {broken:#?}", release.display());
    }
}

#[test]
fn the_judge_of_fields_sees_what_breaks() {
    let old = "message A { string a = 1; repeated uint32 b = 2; oneof c { string d = 3; bytes e = 4; } } enum E { X = 0; Y = 1; }
        service S { rpc Do(stream A) returns (A); }";
    let same =
        "message A { reserved 1; repeated uint32 renamed = 2; oneof c { string d = 3; bytes e = 4; string f = 5; } }
        enum E { X = 0; Y = 1; Z = 2; } service S { rpc Do(stream A) returns (A); rpc More(A) returns (A); }";
    let judge = |new: &str| Schema::parse(old).broken_by(&Schema::parse(new));
    assert_eq!(judge(same), Vec::<String>::new());
    for (new, what) in [
        (same.replace("reserved 1; ", ""), "a (1)"),
        (same.replace("reserved 1", "bytes a = 1"), "a (1)"),
        (same.replace("repeated uint32", "uint32"), "b (2)"),
        (same.replace("string d = 3;", "").replace("bytes e", "string d = 3; } oneof other { bytes e"), "e (4)"),
        (same.replace("Y = 1; ", ""), "Y"),
        (same.replace("Do(stream A)", "Do(A)"), "Do"),
        (same.replace("message A", "message B").replace("A)", "B)"), "A"),
    ] {
        let broken = judge(&new);
        assert!(broken.iter().any(|line| line.contains(what)), "{what}: {broken:?} of {new}");
    }
}

#[test]
fn what_a_released_proxy_asks_is_answered_as_it_was() {
    let mut solo = Solo::new(2);
    solo.start_controller();
    for release in releases() {
        let schema = Schema::read(&release.join("control.proto"));
        let answers = converse(&solo, &schema, &questions());
        let spoken: Vec<Value> = questions()
            .into_iter()
            .zip(answers)
            .map(|(key, answer)| json!({"key": key, "answer": with_subnet(&answer, &solo.subnet, SUBNET)}))
            .collect();
        if std::env::var_os("LACEWING_GEN").is_some() && Some(&release) == releases().last() {
            let text = serde_json::to_string_pretty(&spoken).expect("JSON");
            fs::write(release.join("dialogue.json"), text + "\n").expect("the dialogue can be written");
        }
        for (was, is) in dialogue(&release).iter().zip(&spoken) {
            assert_eq!(is, was, "{} would hear something else", release.display());
        }
        assert_eq!(dialogue(&release).len(), spoken.len());
    }
}

#[test]
fn todays_proxies_serve_on_a_released_controllers_answers() {
    for release in releases() {
        let schema = Schema::read(&release.join("control.proto"));
        let mut solo = Solo::new(2);
        let spoken = dialogue(&release).iter().map(|one| with_subnet(one, SUBNET, &solo.subnet)).collect();
        let controller = FakeController::start(&solo, schema, spoken);
        solo.start_proxies();
        until("an answer through two of today's proxies", PATIENCE, || {
            (solo.get("/hello").status == 200).then_some(())
        });
        let mut endpoints = solo.endpoints();
        endpoints.sort();
        assert_eq!(endpoints, ["server-1", "server-2"]);
        until("reports of what is applied", PATIENCE, || (controller.applied() >= 4).then_some(()));
    }
}
