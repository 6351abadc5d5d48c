//! Owns the rule that `docs/settings.md` lists the settings that the programs read, each with its default, and no other.

use std::collections::BTreeMap;

use super::{Source, assert_none, read, sources};

/// By name; no default where one must be given.
type Table = BTreeMap<String, Option<String>>;

/// The next argument of a call: a literal, or a constant by its name.
fn argument<'a>(text: &'a str, constants: &BTreeMap<&str, &'a str>) -> Option<(&'a str, &'a str)> {
    let text = text.trim_start();
    let (value, rest) = if let Some(literal) = text.strip_prefix('"') {
        literal.split_once('"')?
    } else {
        let (name, rest) = text.split_at(text.find([',', ')'])?);
        (*constants.get(name.trim().rsplit("::").next()?)?, rest)
    };
    Some((value, rest.trim_start().strip_prefix(',').unwrap_or(rest)))
}

/// What code reads by `Settings::get` and `Settings::required`; constants are those of all `sources`.
fn settings(sources: &[&Source], of: impl Fn(&str) -> bool) -> Table {
    let lines = sources.iter().flat_map(|source| source.body().lines());
    let constants = lines.filter_map(|line| {
        let (name, value) = line.trim().trim_start_matches("pub ").strip_prefix("const ")?.split_once(": &str = \"")?;
        Some((name, value.strip_suffix("\";")?))
    });
    let constants: BTreeMap<&str, &str> = constants.collect();
    let mut found = Table::new();
    for source in sources.iter().filter(|source| of(&source.path)) {
        for (call, required) in [(".get(", false), (".required(", true)] {
            for after in source.body().split(call).skip(1) {
                let Some((name, rest)) = argument(after, &constants) else { continue };
                if !name.starts_with("LACEWING_") && name != "KUBECONFIG" {
                    continue;
                }
                let default = argument(rest, &constants).map(|(default, _)| default.to_owned());
                found.insert(name.to_owned(), if required { None } else { default });
            }
        }
    }
    found
}

/// The table of one section.
fn documented(page: &str, section: &str) -> Table {
    let rows = page.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with("## "));
    let rows = rows.filter_map(|row| {
        let mut cells = row.strip_prefix("| `")?.split(" | ");
        let (name, default) = (cells.next()?.trim_end_matches('`'), cells.next()?);
        let default = match default {
            "required" => None,
            "none" => Some(String::new()),
            // A long one is cut into pieces, so that a page can break it.
            given => Some(given.replace("` `", "").replace('`', "")),
        };
        Some((name.to_owned(), default))
    });
    rows.collect()
}

fn differences(section: &str, code: &Table, page: &Table) -> Vec<String> {
    let names = code.keys().chain(page.keys().filter(|name| !code.contains_key(*name)));
    let wrong = names.filter(|name| code.get(*name) != page.get(*name));
    wrong.map(|name| format!("{section}: {name} is {:?}, the page says {:?}", code.get(name), page.get(name))).collect()
}

#[test]
fn every_setting_is_on_its_page_with_its_default() {
    let (sources, page) = (sources(), read("docs/settings.md"));
    let of = |crate_: &str| {
        let own = sources.iter().filter(|source| source.path.starts_with(crate_) && !source.is_test());
        own.collect::<Vec<_>>()
    };
    let (proxy, controller) = (of("proxy/src/"), of("controller/src/"));
    let init = |path: &str| path.starts_with("proxy/src/init/");
    let tables = [
        ("## The proxy", settings(&proxy, |path| !init(path))),
        ("## The init step", settings(&proxy, init)),
        ("## The controller", settings(&controller, |_| true)),
    ];
    for (section, code) in tables {
        assert!(code.len() >= 10, "{section}: the settings were not found: {code:?}");
        assert_none(&differences(section, &code, &documented(&page, section)));
    }
}

#[test]
fn a_setting_that_is_missing_or_has_another_default_is_named() {
    let text = "pub const B: &str = \"LACEWING_B\";\nconst PORTS: &str = \"1,2\";\nlet a = s.get(\"LACEWING_A\", \"\", text);\n\
         let b = s.get(\n    B,\n    config::PORTS,\n    list,\n);\nlet c = s.required(\"LACEWING_C\", \"why\", text);\nmap.get(b);\n";
    let source = Source { path: "proxy/src/config.rs".into(), text: text.into() };
    let code = settings(&[&source], |_| true);
    let good = "## X\n\n| name | default |\n|---|---|\n| `LACEWING_A` | none | x |\n| `LACEWING_B` | `1,` `2` | x |\n\
                | `LACEWING_C` | required | x |\n## Y\n| `LACEWING_D` | none | x |\n";
    assert_none(&differences("X", &code, &documented(good, "## X")));
    for (from, to, name) in [
        ("`1,` `2`", "`1,3`", "LACEWING_B is Some(Some(\"1,2\"))"),
        ("required", "none", "LACEWING_C is Some(None)"),
        ("`LACEWING_A`", "`LACEWING_E`", "LACEWING_A is Some(Some(\"\")), the page says None"),
        ("## Y\n", "", "LACEWING_D is None"),
    ] {
        let found = differences("X", &code, &documented(&good.replace(from, to), "## X"));
        assert!(found.iter().any(|what| what.contains(name)), "{name}: {found:?}");
    }
}
