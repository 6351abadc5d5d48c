//! The rules: which connections go to the proxy and which are left alone, in which order, as one batch that replaces
//! whatever table of ours there was. Pure: the same settings give the same bytes.
//!
//! Each rule carries a sentence. It names the rule in an error, stands as comment in `nft list table inet lacewing`, and
//! by it `--check` knows the rule again.

use super::{
    error::Step,
    expression::{self, Expressions},
    netlink::{APPEND, Attributes, Batch, CREATE},
    settings::{Exempt, Redirection},
};

/// The table, of family `inet`.
pub const TABLE: &str = "lacewing";

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
pub const CHAIN_TABLE: u16 = 1;
pub const CHAIN_NAME: u16 = 3;
pub const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
pub const CHAIN_TYPE: u16 = 7;
pub const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
pub const RULE_TABLE: u16 = 1;
pub const RULE_CHAIN: u16 = 2;
pub const RULE_EXPRESSIONS: u16 = 4;
pub const RULE_COMMENT: u16 = 7;
const LIST_ELEMENT: u16 = 1;

/// Both chains translate addresses, where the kernel translates destinations.
pub const CHAIN_OF_TYPE: &str = "nat";
const PRIORITY: i32 = -100;
const ACCEPT: u32 = 1;

/// A chain of the table: where the kernel calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// For what comes in.
    Prerouting = 0,
    /// For what is opened here.
    Output = 3,
}

impl Chain {
    pub const ALL: [Self; 2] = [Self::Output, Self::Prerouting];

    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub chain: Chain,
    /// What it does, in one sentence of at most 250 bytes.
    pub sentence: String,
    /// Where it redirects to, if it does.
    pub redirects_to: Option<u16>,
    expressions: Expressions,
}

/// All rules of both chains, in order.
pub fn rules(redirection: &Redirection) -> Vec<Rule> {
    let mut rules = outbound(redirection);
    rules.extend(inbound(redirection));
    rules
}

fn outbound(redirection: &Redirection) -> Vec<Rule> {
    let leave = |sentence: String, conditions| Rule::leave(Chain::Output, sentence, conditions);
    let mut rules = vec![
        match redirection.exempt {
            Exempt::Uid(uid) => leave(format!("uid {uid} is the proxy"), expression::socket_uid(uid)),
            Exempt::Mark(mark) => leave(format!("mark {mark:#x} is the proxy"), expression::mark(mark)),
        },
        leave("what stays in the pod is left alone".to_owned(), expression::leaves_by_loopback()),
    ];
    let skip = &redirection.skip_outbound;
    rules.extend(
        skip.iter().map(|p| leave(format!("outbound port {p} is skipped"), expression::tcp_to(p.first, p.last))),
    );
    let skip = &redirection.skip_subnets;
    rules.extend(skip.iter().map(|net| leave(format!("destination {net} is skipped"), expression::destination(*net))));
    rules.push(Rule::redirect(Chain::Output, redirection.outbound));
    rules
}

fn inbound(redirection: &Redirection) -> Vec<Rule> {
    let leave = |sentence: String, conditions| Rule::leave(Chain::Prerouting, sentence, conditions);
    let mut rules = vec![leave("what stays in the pod is left alone".to_owned(), expression::comes_by_loopback())];
    let own = &redirection.own_ports;
    rules.extend(
        own.iter().map(|port| leave(format!("port {port} is the proxy's own"), expression::tcp_to(*port, *port))),
    );
    let skip = &redirection.skip_inbound;
    rules.extend(
        skip.iter().map(|p| leave(format!("inbound port {p} is skipped"), expression::tcp_to(p.first, p.last))),
    );
    rules.push(Rule::redirect(Chain::Prerouting, redirection.inbound));
    rules
}

impl Rule {
    fn leave(chain: Chain, sentence: String, mut expressions: Expressions) -> Self {
        expressions.push(expression::leave_alone());
        Self { chain, sentence, redirects_to: None, expressions }
    }

    fn redirect(chain: Chain, port: u16) -> Self {
        let mut expressions = expression::tcp();
        expressions.extend(expression::redirect(port));
        Self { chain, sentence: format!("TCP goes to port {port}"), redirects_to: Some(port), expressions }
    }

    fn push(&self, batch: &mut Batch) {
        let one = |list: Attributes, expression: &Attributes| list.nest(LIST_ELEMENT, expression);
        let attributes = Attributes::default()
            .text(RULE_TABLE, TABLE)
            .text(RULE_CHAIN, self.chain.name())
            .nest(RULE_EXPRESSIONS, &self.expressions.iter().fold(Attributes::default(), one))
            .bytes(RULE_COMMENT, &comment(&self.sentence));
        let step = if self.redirects_to.is_some() { Step::Redirect } else { Step::Rule };
        let what = format!("add the rule {:?} to chain {}", self.sentence, self.chain.name());
        batch.push(NEW_RULE, CREATE | APPEND, &attributes, step, what);
    }
}

/// A comment as `nft` stores and shows it: type, length, text, zero.
pub fn comment(sentence: &str) -> Vec<u8> {
    const COMMENT: u8 = 0;
    [&[COMMENT, sentence.len() as u8 + 1], sentence.as_bytes(), &[0]].concat()
}

/// Puts the rules in place of all that was in our table. There is no moment between the old rules and the new ones.
pub fn installation(redirection: &Redirection) -> Batch {
    let mut batch = removal();
    push_table(&mut batch, NEW_TABLE, CREATE);
    for chain in Chain::ALL {
        let hook =
            Attributes::default().number(HOOK_NUMBER, chain as u32).number(HOOK_PRIORITY, PRIORITY.cast_unsigned());
        let attributes = Attributes::default()
            .text(CHAIN_TABLE, TABLE)
            .text(CHAIN_NAME, chain.name())
            .text(CHAIN_TYPE, CHAIN_OF_TYPE)
            .number(CHAIN_POLICY, ACCEPT)
            .nest(CHAIN_HOOK, &hook);
        let what = format!("make chain {} of type {CHAIN_OF_TYPE} in table inet {TABLE}", chain.name());
        batch.push(NEW_CHAIN, CREATE, &attributes, Step::Chain, what);
    }
    for rule in rules(redirection) {
        rule.push(&mut batch);
    }
    batch
}

/// Removes the table. It is made first, if it is not there: otherwise deleting it would be an error.
pub fn removal() -> Batch {
    let mut batch = Batch::default();
    push_table(&mut batch, NEW_TABLE, CREATE);
    push_table(&mut batch, DELETE_TABLE, 0);
    batch
}

fn push_table(batch: &mut Batch, kind: u16, flags: u16) {
    let mut attributes = Attributes::default().text(TABLE_NAME, TABLE);
    if kind == NEW_TABLE {
        attributes = attributes.number(TABLE_FLAGS, 0);
    }
    let verb = if kind == NEW_TABLE { "make" } else { "delete" };
    batch.push(kind, flags, &attributes, Step::Table, format!("{verb} table inet {TABLE}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacewing_ops::ports::SKIP_MAX;

    fn redirection(settings: &[(&str, &str)]) -> Redirection {
        let find = |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Redirection::read(&find).unwrap()
    }

    #[test]
    fn rules_stand_in_order() {
        let rules = rules(&redirection(&[
            ("LACEWING_SKIP_OUTBOUND_PORTS", "25,3306-3310"),
            ("LACEWING_SKIP_SUBNETS", "10.0.0.0/8,fd00::/8"),
            ("LACEWING_SKIP_INBOUND_PORTS", "9100"),
        ]));
        let of =
            |chain| rules.iter().filter(move |r| r.chain == chain).map(|r| r.sentence.as_str()).collect::<Vec<_>>();
        assert_eq!(
            of(Chain::Output),
            [
                "uid 2102 is the proxy",
                "what stays in the pod is left alone",
                "outbound port 25 is skipped",
                "outbound port 3306-3310 is skipped",
                "destination 10.0.0.0/8 is skipped",
                "destination fd00::/8 is skipped",
                "TCP goes to port 4140",
            ]
        );
        assert_eq!(
            of(Chain::Prerouting),
            [
                "what stays in the pod is left alone",
                "port 4140 is the proxy's own",
                "port 4143 is the proxy's own",
                "port 4191 is the proxy's own",
                "port 4192 is the proxy's own",
                "inbound port 9100 is skipped",
                "TCP goes to port 4143",
            ]
        );
    }

    #[test]
    fn a_mark_takes_the_place_of_the_uid() {
        let rules = rules(&redirection(&[("LACEWING_SOCKET_MARK", "0x2102")]));
        assert_eq!(rules[0].sentence, "mark 0x2102 is the proxy");
        assert!(!rules.iter().any(|rule| rule.sentence.contains("uid")));
    }

    #[test]
    fn the_same_settings_give_the_same_bytes() {
        let settings = [("LACEWING_SKIP_SUBNETS", "10.0.0.0/8,fd00::/8")];
        let batch = || format!("{:?}", installation(&redirection(&settings)));
        assert_eq!(batch(), batch());
    }

    #[test]
    fn the_longest_lists_fit_into_one_message() {
        /// What a netlink socket takes at a time, unless the node's administrator says otherwise, in bytes.
        const SEND_BUFFER: usize = 212_992;
        let ports: Vec<_> = (0..SKIP_MAX).map(|n| format!("{}-{}", 10_000 + 3 * n, 10_001 + 3 * n)).collect();
        let nets: Vec<_> =
            (0..SKIP_MAX).map(|n| format!("2001:db8:aaaa:bbbb:cccc:dddd:eeee:{:x}/128", 0x1000 + n)).collect();
        let (ports, nets) = (ports.join(","), nets.join(","));
        let redirection = redirection(&[
            ("LACEWING_SKIP_INBOUND_PORTS", &ports),
            ("LACEWING_SKIP_OUTBOUND_PORTS", &ports),
            ("LACEWING_SKIP_SUBNETS", &nets),
        ]);
        let bytes = installation(&redirection).size();
        assert!(bytes < SEND_BUFFER, "{bytes} bytes");
        assert!(rules(&redirection).iter().all(|rule| rule.sentence.len() <= 250));
    }
}
