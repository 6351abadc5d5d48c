//! Tables: what is read, and what is refused with which words.

use serde_json::json;

use super::*;

fn given(assignments: &str, text: bool) -> Result<Value, String> {
    let mut given = json!({ "map": { "old": 1 }, "list": ["a"], "word": "w" });
    set(&mut given, assignments, text).map(|()| given)
}

#[test]
fn assignments_mean_what_they_mean_to_helm() {
    for (assignments, pointer, value) in [
        ("a=1", "/a", json!(1)),
        ("a=-5", "/a", json!(-5)),
        ("a=0", "/a", json!(0)),
        ("a=012", "/a", json!("012")),
        ("a=1.5", "/a", json!("1.5")),
        ("a=TRUE", "/a", json!(true)),
        ("a=null", "/a", json!(null)),
        ("a=", "/a", json!("")),
        ("a=b=c", "/a", json!("b=c")),
        ("a=\"q\"", "/a", json!("\"q\"")),
        ("a=b\\,c", "/a", json!("b,c")),
        ("a.b.c=d", "/a/b/c", json!("d")),
        ("a\\.b=c", "/a.b", json!("c")),
        ("a={b,1,c\\,d}", "/a", json!(["b", 1, "c,d"])),
        ("a={}", "/a", json!([])),
        ("a={b},c=d", "/c", json!("d")),
        ("a[1].b=c", "/a", json!([null, { "b": "c" }])),
        ("a[0][1]=c", "/a", json!([[null, "c"]])),
        ("map.new=2", "/map", json!({ "old": 1, "new": 2 })),
        ("list[1]=b", "/list", json!(["a", "b"])),
        ("a=1,a=2", "/a", json!(2)),
        ("a=b,", "/a", json!("b")),
    ] {
        let given = given(assignments, false).unwrap_or_else(|why| panic!("{assignments}: {why}"));
        assert_eq!(given.pointer(pointer), Some(&value), "{assignments}");
    }
    assert_eq!(
        given("a=1,b={true,x}", true).map(|all| (all["a"].clone(), all["b"].clone())),
        Ok((json!("1"), json!(["true", "x"])))
    );
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let deep = "a.".repeat(DEPTH_MAX) + "a=1";
    for (assignments, part) in [
        ("a", "\"a\" has no value: write `a=VALUE`"),
        ("a,b=1", "\"a\" has no value"),
        ("=1", "a key is missing before \"=1\""),
        ("a..b=1", "a key is missing"),
        ("a={b", "a list ends with `}`"),
        ("a={b}c", "\"c\" stands behind a list"),
        ("a[x]=1", "an index is a number up to 1000"),
        ("a[1001]=1", "an index is a number up to 1000"),
        ("a[0=1", "`]` is missing"),
        ("a[0]", "\"a\" has no value"),
        ("word.x=1", "\"x\" is set within \"w\", which is no map"),
        ("map[0]=1", "item 0 is set within {\"old\":1}, which is no list"),
        (deep.as_str(), "at most 30 parts"),
    ] {
        assert!(
            given(assignments, false).is_err_and(|why| why.contains(part)),
            "{assignments}: {:?}",
            given(assignments, false)
        );
    }
}

#[test]
fn files_are_maps() {
    assert_eq!(read("a: 1\nb: {c: [x]}\n"), Ok(json!({ "a": 1, "b": { "c": ["x"] } })));
    assert_eq!(read("# nothing\n"), Ok(json!({})));
    for (text, part) in
        [("- a", "no map of values"), ("a: [", ""), ("a: 1\na: 2", "duplicate"), ("a: 1\n---\nb: 2", "")]
    {
        let why = read(text).expect_err(text);
        assert!(why.contains(part) && !why.contains('\n'), "{text}: {why}");
    }
}

#[test]
fn later_values_lie_over_earlier_ones() {
    let mut all = json!({ "a": { "b": 1, "c": [1, 2] }, "d": 1 });
    merge(&mut all, json!({ "a": { "c": [3], "e": null }, "d": { "x": 1 } }));
    assert_eq!(all, json!({ "a": { "b": 1, "c": [3], "e": null }, "d": { "x": 1 } }));
    let mut all = json!({ "a": { "b": 1, "c": 2 }, "d": 1 });
    over_defaults(&mut all, json!({ "a": { "b": null, "x": null }, "d": null }));
    assert_eq!(
        all,
        json!({ "a": { "c": 2, "x": null } }),
        "nothing takes a default away, and stays where there is none"
    );
}
