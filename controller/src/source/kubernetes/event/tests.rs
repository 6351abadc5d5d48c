//! Pages and lines as an API server sends them, and as it should not.

use lacewing_crds::labels;

use super::*;

const META: &str = r#""metadata":{"name":"web","namespace":"a","resourceVersion":"7","managedFields":[{"a":1}]}"#;

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Service, name: Name::new("a", name) }
}

#[test]
fn a_page_is_read_with_where_it_goes_on() {
    let text = format!(
        r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"12","continue":"abc","remainingItemCount":4}},
        "items":[{{{META},"spec":{{"clusterIP":"10.0.0.1"}}}}]}}"#
    );
    let page = page(Kind::Service, text.as_bytes()).unwrap();
    assert_eq!((page.version.as_str(), page.next.as_deref()), ("12", Some("abc")));
    assert!(matches!(&page.objects[..], [Read::Object(object)] if object.key() == key("web")));
}

#[test]
fn a_page_may_be_empty_and_must_be_a_list() {
    for items in ["", r#","items":null"#, r#","items":[]"#] {
        let text = format!(r#"{{"metadata":{{"resourceVersion":"1","continue":""}}{items}}}"#);
        let read = page(Kind::Pod, text.as_bytes()).unwrap();
        assert_eq!((read.objects, read.next), (Vec::new(), None), "{items}");
    }
    for bad in ["", "{}", "[]", r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"1"},"items":[7]}"#] {
        assert!(page(Kind::Pod, bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn one_bad_object_of_a_page_is_named_and_the_others_are_read() {
    let text = format!(
        r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{{{META}}},
        {{"metadata":{{"name":"bad","namespace":"a"}},"spec":{{"clusterIP":"nowhere"}}}},{{{META}}}]}}"#
    );
    let page = page(Kind::Service, text.as_bytes()).unwrap();
    assert_eq!(page.objects.len(), 3);
    let Read::Unreadable(named, why) = &page.objects[1] else { panic!("{page:?}") };
    assert!(*named == key("bad") && why.contains("nowhere"), "{why}");
    assert!(matches!((&page.objects[0], &page.objects[2]), (Read::Object(_), Read::Object(_))));
}

#[test]
fn lines_of_a_watch() {
    let read =
        |what: &str, object: &str| line(Kind::Service, format!(r#"{{"type":"{what}","object":{object}}}"#).as_bytes());
    let object = format!(r#"{{"kind":"Service",{META},"spec":{{"ports":[{{"port":80}}]}}}}"#);
    for what in ["ADDED", "MODIFIED"] {
        let (event, version) = read(what, &object).unwrap();
        assert!(matches!(event, Event::Change(Read::Object(_))) && version == "7", "{event:?}");
    }
    assert_eq!(read("DELETED", &object), Ok((Event::Change(Read::Gone(key("web"))), "7".to_owned())));
    let bookmark = r#"{"kind":"Service","metadata":{"resourceVersion":"99","creationTimestamp":null}}"#;
    assert_eq!(read("BOOKMARK", bookmark), Ok((Event::Bookmark, "99".to_owned())));
    let status =
        r#"{"kind":"Status","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}"#;
    assert_eq!(read("ERROR", status), Ok((Event::Error(410, "too old".to_owned()), String::new())));
    assert!(matches!(read("ERROR", "7"), Ok((Event::Error(500, _), _))));
    let bad = format!(r#"{{{META},"spec":{{"ports":[{{"port":"x"}}]}}}}"#);
    assert!(matches!(read("ADDED", &bad), Ok((Event::Change(Read::Unreadable(..)), version)) if version == "7"));
    for (what, object) in [("RENAMED", object.as_str()), ("ADDED", "{}"), ("ADDED", "null"), ("DELETED", "[]")] {
        assert!(read(what, object).is_err(), "{what} {object}");
    }
    assert!(line(Kind::Service, b"not json").is_err());
}

#[test]
fn only_the_meshs_own_annotations_are_kept() {
    let text = format!(
        r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{{"metadata":{{"name":"n","annotations":
        {{"{}":"enabled","kubectl.kubernetes.io/last-applied-configuration":"long"}}}}}}]}}"#,
        labels::INJECT
    );
    let page = page(Kind::Namespace, text.as_bytes()).unwrap();
    let [Read::Object(object)] = &page.objects[..] else { panic!("{page:?}") };
    assert_eq!(object.metadata().annotations.iter().map(|(key, _)| key).collect::<Vec<_>>(), [labels::INJECT]);
}
