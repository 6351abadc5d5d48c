//! The history check itself: it finds each kind of contradiction, and passes a history that has none.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use lacewing_tests::history::{Book, Event, History, Outcome, Protocol};

fn event(token: &str, post: bool, echo: Option<(&str, &str)>) -> Event {
    let outcome = match echo {
        Some((token, server)) => Outcome::Answered {
            status: 200,
            grpc: None,
            error: None,
            echo: Some((token.to_owned(), server.to_owned())),
        },
        None => Outcome::Failed("broken".to_owned()),
    };
    let took = Duration::from_millis(1);
    Event { token: token.to_owned(), protocol: Protocol::Http1, post, due: Instant::now(), took, outcome }
}

fn objection(events: Vec<Event>, book: &Book) -> Option<String> {
    let history = History::new(events, book);
    let panic = catch_unwind(AssertUnwindSafe(|| history.check())).err()?;
    Some(*panic.downcast::<String>().expect("words"))
}

#[track_caller]
fn finds(words: &str, events: Vec<Event>, book: &Book) {
    let said = objection(events, book);
    assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{words:?} was to be found, not {said:?}");
}

#[test]
fn the_check_finds_what_contradicts() {
    let book = || {
        let book = Book::default();
        book.note("web-1", "a", true);
        book.note("web-2", "b", false);
        book
    };
    let well = || vec![event("a", true, Some(("a", "web-1"))), event("b", false, Some(("b", "web-2")))];
    assert_eq!(objection(well(), &book()), None);

    finds("has 2 outcomes", [well(), well()].concat(), &book());
    finds("which nobody sent", well().split_off(1), &book());
    let crossed = vec![event("a", true, Some(("b", "web-2"))), event("b", false, None)];
    finds("got the answer to b", crossed, &book());
    let invented = vec![event("a", true, None), event("b", false, Some(("b", "web-1")))];
    finds("which never saw it", invented, &book());

    let twice = book();
    twice.note("web-2", "b", false);
    assert_eq!(objection(well(), &twice), None, "what is idempotent may be seen twice");
    twice.note("web-2", "a", true);
    finds("POST a was seen by", well(), &twice);
}

#[test]
fn the_check_finds_who_was_asked_after_its_removal() {
    let book = Book::default();
    book.removed("web-1");
    book.note("web-1", "a", false);
    assert_eq!(objection(vec![event("a", false, None)], &book), None, "it was on its way");
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        std::thread::sleep(Duration::from_millis(10));
    }
    book.note("web-1", "b", false);
    finds("after its removal", vec![event("a", false, None), event("b", false, None)], &book);
}
