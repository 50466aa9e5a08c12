//! STIX patterns: which addresses a pattern surely amounts to (STIX 2.1, 9; STIX 2.0, part 5).
//!
//! ```text
//! [ipv4-addr:value = '192.0.2.1' OR ipv4-addr:value ISSUBSET '198.51.100.0/24']
//! [network-traffic:dst_ref.type = 'ipv4-addr' AND network-traffic:dst_ref.value = '192.0.2.1']
//! ```
//!
//! A packet filter sees one address at a time. So an alternative is taken when an address alone fulfils it; one that
//! asks for more (a file as well, two addresses, an order, a time) is refused and named, and the alternatives beside
//! it stay. Ports and protocols do not count as more: they are ignored, and the caller says so.
//!
//! The grammar, keywords in any case, comments (`/* */`, `//`) and blanks anywhere between tokens:
//!
//! ```text
//! pattern     = sequence
//! sequence    = either { "FOLLOWEDBY" either }
//! either      = both { "OR" both }
//! both        = observation { "AND" observation }
//! observation = [ "NOT" ] ( "[" any "]" | "(" sequence ")" ) { qualifier }
//! qualifier   = "WITHIN" number "SECONDS" | "REPEATS" number "TIMES" | "START" literal "STOP" literal
//! any         = all { "OR" all }
//! all         = test { "AND" test }
//! test        = [ "NOT" ] ( "(" any ")" | "EXISTS" path | comparison )
//! comparison  = path [ "NOT" ] ( operator literal | "IN" "(" [ literal { "," literal } ] ")" )
//! operator    = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" | "LIKE" | "MATCHES" | "ISSUBSET" | "ISSUPERSET"
//! path        = word ":" key { "." key | "[" ( number | "*" ) "]" }
//! key         = word | string
//! literal     = string | number | "true" | "false" | ( "t" | "h" | "b" ) string
//! ```
//!
//! `NOT` before a test is no STIX, but is written, and must not be mistaken for something else.
//!
//! `ISSUPERSET` is taken like `ISSUBSET`, as the prefix it names: a network that is a superset of the constant holds at
//! least the constant, so the constant is what every match has in common. Nothing wider is ever taken for it, and a
//! notice says so.

use std::borrow::Cow;

use super::super::{Reason, entry};

/// Parentheses in each other; nobody writes more.
const MAX_DEPTH: usize = 64;

/// What a pattern amounts to: alternatives, each of which is enough for a match.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Meaning<'a> {
    /// Addresses that are enough by themselves, in the order of the text.
    pub(super) addresses: Vec<Address<'a>>,
    /// There are alternatives about addresses that ask for more: what the first of them asks for.
    pub(super) refused: Option<&'static str>,
    /// There are alternatives that have nothing to do with addresses: what to call them beside an address.
    other: Option<&'static str>,
    /// There are alternatives that only tell the family of an address.
    is_family: bool,
    /// There are alternatives that only tell ports or protocols.
    is_port: bool,
    /// There are alternatives that only tell a host name.
    is_name: bool,
    /// An address was compared by ISSUPERSET.
    pub(super) has_superset: bool,
}

/// An address, prefix or range as a pattern has it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Address<'a> {
    /// Unchecked.
    pub(super) text: Cow<'a, str>,
    /// Where it stands in the pattern, in bytes.
    pub(super) at: usize,
    /// The type of the object that it is compared with: `ipv4-addr`.
    pub(super) kind: &'static str,
    /// A port or a protocol was asked for, too.
    pub(super) port: bool,
}

/// A text that is no pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unreadable;

/// Reads a pattern.
pub(super) fn read(pattern: &str) -> Result<Meaning<'_>, Unreadable> {
    let mut parser = Parser { text: pattern, at: 0, token: Token::End, start: 0, depth: 0 };
    parser.advance()?;
    let meaning = parser.sequence()?;
    if parser.token == Token::End { Ok(meaning) } else { Err(Unreadable) }
}

const NO_ADDRESS: &str = "an AND with something that is no address";
const SECOND_ADDRESS: &str = "an AND with a second address";
const DOMAIN_NAME: &str = "domain-name";

impl<'a> Meaning<'a> {
    fn refused(what: &'static str) -> Self {
        Meaning { refused: Some(what), ..Meaning::default() }
    }

    fn other(what: &'static str) -> Self {
        Meaning { other: Some(what), ..Meaning::default() }
    }

    /// Whether there are alternatives that name no address.
    pub(super) fn names_more(&self) -> bool {
        self.other.is_some() || self.is_family || self.is_port || self.is_name
    }

    /// Whether an address has to do with it.
    pub(super) fn is_about_addresses(&self) -> bool {
        !self.addresses.is_empty() || self.refused.is_some()
    }

    /// Either of two.
    fn or(&mut self, mut other: Self) {
        self.addresses.append(&mut other.addresses);
        self.refused = self.refused.or(other.refused);
        self.other = self.other.or(other.other);
        self.is_family |= other.is_family;
        self.is_port |= other.is_port;
        self.is_name |= other.is_name;
        self.has_superset |= other.has_superset;
    }

    /// All of several tests of one observation.
    fn all(tests: Vec<Self>) -> Self {
        let (mut about, beside): (Vec<_>, Vec<_>) = tests.into_iter().partition(Meaning::is_about_addresses);
        let Some(mut meaning) = about.pop() else { return Meaning::of_none(&beside) };
        if !about.is_empty() {
            return Meaning::refused(SECOND_ADDRESS);
        }
        // A name and the address it resolves to: MISP's `domain|ip`.
        let may_be_named = meaning.addresses.iter().all(|address| address.kind == DOMAIN_NAME);
        let more = beside.iter().find_map(|test| test.other.or((test.is_name && !may_be_named).then_some(NO_ADDRESS)));
        if let Some(more) = more {
            meaning.addresses.clear();
            meaning.refused = meaning.refused.or(Some(more));
        }
        let port = beside.iter().any(|test| test.is_port);
        meaning.addresses.iter_mut().for_each(|address| address.port |= port);
        meaning
    }

    /// All of several tests, none of which is about an address.
    fn of_none(tests: &[Self]) -> Self {
        let more = tests.iter().find_map(|test| test.other.or(test.is_name.then_some(NO_ADDRESS)));
        match more {
            Some(more) => Meaning::other(more),
            None => {
                let is_port = tests.iter().any(|test| test.is_port);
                Meaning { is_port, is_family: !is_port, ..Meaning::default() }
            }
        }
    }

    /// The same with a condition that no packet filter can follow.
    fn under(self, what: &'static str) -> Self {
        if self.is_about_addresses() { Meaning::refused(what) } else { Meaning::other(what) }
    }
}

/// What a path leads to.
enum Property {
    /// An address of an object of this type.
    Address(&'static str),
    /// The type of what a reference leads to.
    Family,
    Port,
    Name,
    Other,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Operator {
    /// Fulfilled by the constant, or what lies in it.
    Is,
    /// By what holds the constant.
    IsSuperset,
    /// By anything else.
    IsNot,
    /// By what only a comparison of texts or numbers tells.
    Other(&'static str),
}

#[derive(Debug, Eq, PartialEq)]
enum Token<'a> {
    /// A keyword, a name or `true`.
    Word(&'a str),
    Number(&'a str),
    /// Without its quotes and escapes.
    Text(Cow<'a, str>),
    /// `t'2025-01-01T00:00:00Z'`, `h'00'`, `b'AA=='`.
    Typed,
    Sign(&'static str),
    End,
}

struct Parser<'a> {
    text: &'a str,
    /// Behind the current token.
    at: usize,
    token: Token<'a>,
    /// Where the current token starts; of a text, behind its quote.
    start: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn sequence(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let mut meaning = self.either()?;
        while self.takes("FOLLOWEDBY")? {
            meaning.or(self.either()?);
            meaning = meaning.under("FOLLOWEDBY");
        }
        Ok(meaning)
    }

    fn either(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let mut meaning = self.both()?;
        while self.takes("OR")? {
            meaning.or(self.both()?);
        }
        Ok(meaning)
    }

    fn both(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let mut meaning = self.observation()?;
        while self.takes("AND")? {
            meaning.or(self.observation()?);
            meaning = meaning.under("an AND of observations");
        }
        Ok(meaning)
    }

    fn observation(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let is_negated = self.takes("NOT")?;
        let mut meaning = if self.takes_sign("[")? {
            let meaning = self.any()?;
            self.expect_sign("]")?;
            meaning
        } else {
            self.expect_sign("(")?;
            let meaning = self.deeper(Self::sequence)?;
            self.expect_sign(")")?;
            meaning
        };
        if is_negated {
            meaning = meaning.under("NOT");
        }
        loop {
            let what = if self.takes("WITHIN")? {
                self.number()?;
                self.expect("SECONDS")?;
                "WITHIN"
            } else if self.takes("REPEATS")? {
                self.number()?;
                self.expect("TIMES")?;
                "REPEATS"
            } else if self.takes("START")? {
                self.literal()?;
                self.expect("STOP")?;
                self.literal()?;
                "START and STOP"
            } else {
                return Ok(meaning);
            };
            meaning = meaning.under(what);
        }
    }

    fn any(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let mut meaning = self.all()?;
        while self.takes("OR")? {
            meaning.or(self.all()?);
        }
        Ok(meaning)
    }

    fn all(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let first = self.test()?;
        if !self.is("AND") {
            return Ok(first);
        }
        let mut tests = vec![first];
        while self.takes("AND")? {
            tests.push(self.test()?);
        }
        Ok(Meaning::all(tests))
    }

    fn test(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let is_negated = self.takes("NOT")?;
        let meaning = if self.takes_sign("(")? {
            let meaning = self.deeper(Self::any)?;
            self.expect_sign(")")?;
            meaning
        } else if self.takes("EXISTS")? {
            match self.path()? {
                Property::Address(_) => Meaning::refused("EXISTS"),
                _ => Meaning::other(NO_ADDRESS),
            }
        } else {
            self.comparison()?
        };
        Ok(if is_negated { meaning.under("NOT") } else { meaning })
    }

    fn comparison(&mut self) -> Result<Meaning<'a>, Unreadable> {
        let property = self.path()?;
        let is_negated = self.takes("NOT")?;
        let (operator, constants) = if self.takes("IN")? {
            (Operator::Is, self.set()?)
        } else {
            let operator = self.operator()?;
            (operator, vec![self.literal()?])
        };
        let meaning = match (property, operator) {
            (Property::Address(kind), Operator::Is) => addresses(kind, constants),
            (Property::Address(kind), Operator::IsSuperset) => {
                Meaning { has_superset: true, ..addresses(kind, constants) }
            }
            (Property::Address(_), Operator::IsNot) => Meaning::refused("!="),
            (Property::Address(_), Operator::Other(what)) => Meaning::refused(what),
            (_, Operator::IsNot) => Meaning::other("!="),
            (Property::Port, _) => Meaning { is_port: true, ..Meaning::default() },
            (Property::Family, Operator::Is) if constants.iter().all(|(_, text)| is_family(text)) => {
                Meaning { is_family: true, ..Meaning::default() }
            }
            (Property::Name, Operator::Is) => Meaning { is_name: true, ..Meaning::default() },
            _ => Meaning::other(NO_ADDRESS),
        };
        Ok(if is_negated { meaning.under("NOT") } else { meaning })
    }

    fn operator(&mut self) -> Result<Operator, Unreadable> {
        const SIGNS: [(&str, Operator); 6] = [
            ("=", Operator::Is),
            ("!=", Operator::IsNot),
            ("<", Operator::Other("<")),
            ("<=", Operator::Other("<=")),
            (">", Operator::Other(">")),
            (">=", Operator::Other(">=")),
        ];
        const WORDS: [(&str, Operator); 4] = [
            ("ISSUBSET", Operator::Is),
            ("ISSUPERSET", Operator::IsSuperset),
            ("LIKE", Operator::Other("LIKE")),
            ("MATCHES", Operator::Other("MATCHES")),
        ];
        let found = match self.token {
            Token::Sign(sign) => SIGNS.into_iter().find(|(other, _)| *other == sign),
            Token::Word(word) => WORDS.into_iter().find(|(other, _)| other.eq_ignore_ascii_case(word)),
            _ => None,
        };
        let (_, operator) = found.ok_or(Unreadable)?;
        self.advance()?;
        Ok(operator)
    }

    fn set(&mut self) -> Result<Vec<(usize, Cow<'a, str>)>, Unreadable> {
        self.expect_sign("(")?;
        let mut constants = Vec::new();
        if self.takes_sign(")")? {
            return Ok(constants);
        }
        loop {
            constants.push(self.literal()?);
            if self.takes_sign(")")? {
                return Ok(constants);
            }
            self.expect_sign(",")?;
        }
    }

    fn path(&mut self) -> Result<Property, Unreadable> {
        let Token::Word(object) = self.token else { return Err(Unreadable) };
        self.advance()?;
        self.expect_sign(":")?;
        let mut keys = [self.key()?, Cow::Borrowed(""), Cow::Borrowed("")];
        let mut count = 1;
        loop {
            if self.takes_sign(".")? {
                let key = self.key()?;
                if let Some(place) = keys.get_mut(count) {
                    *place = key;
                }
                count += 1;
            } else if self.takes_sign("[")? {
                if !self.takes_sign("*")? {
                    self.number()?;
                }
                self.expect_sign("]")?;
            } else {
                let keys = keys.each_ref().map(AsRef::as_ref);
                return Ok(property(object, keys.get(..count).unwrap_or(&[])));
            }
        }
    }

    fn key(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        let key = match &mut self.token {
            Token::Word(word) => Cow::Borrowed(*word),
            Token::Text(text) => std::mem::take(text),
            _ => return Err(Unreadable),
        };
        self.advance()?;
        Ok(key)
    }

    /// A constant and where it stands.
    fn literal(&mut self) -> Result<(usize, Cow<'a, str>), Unreadable> {
        let text = match &mut self.token {
            Token::Text(text) => std::mem::take(text),
            Token::Number(text) => Cow::Borrowed(*text),
            Token::Word(word) if ["true", "false"].iter().any(|truth| truth.eq_ignore_ascii_case(word)) => {
                Cow::Borrowed(*word)
            }
            Token::Typed => Cow::Borrowed(""),
            Token::Word(_) | Token::Sign(_) | Token::End => return Err(Unreadable),
        };
        let start = self.start;
        self.advance()?;
        Ok((start, text))
    }

    fn number(&mut self) -> Result<(), Unreadable> {
        if matches!(self.token, Token::Number(_)) { self.advance() } else { Err(Unreadable) }
    }

    fn deeper(&mut self, read: fn(&mut Self) -> Result<Meaning<'a>, Unreadable>) -> Result<Meaning<'a>, Unreadable> {
        if self.depth == MAX_DEPTH {
            return Err(Unreadable);
        }
        self.depth += 1;
        let meaning = read(self);
        self.depth -= 1;
        meaning
    }

    fn is(&self, keyword: &str) -> bool {
        matches!(self.token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// Goes on if the current token is this keyword.
    fn takes(&mut self, keyword: &str) -> Result<bool, Unreadable> {
        let is = self.is(keyword);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn expect(&mut self, keyword: &str) -> Result<(), Unreadable> {
        if self.takes(keyword)? { Ok(()) } else { Err(Unreadable) }
    }

    fn takes_sign(&mut self, sign: &str) -> Result<bool, Unreadable> {
        let is = matches!(self.token, Token::Sign(other) if other == sign);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn expect_sign(&mut self, sign: &str) -> Result<(), Unreadable> {
        if self.takes_sign(sign)? { Ok(()) } else { Err(Unreadable) }
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), Unreadable> {
        self.skip_blanks()?;
        let rest = self.rest();
        self.start = self.at;
        let Some(first) = rest.chars().next() else {
            self.token = Token::End;
            return Ok(());
        };
        // The longest first.
        const SIGNS: [(&str, &str); 16] = [
            ("==", "="),
            ("=", "="),
            ("!=", "!="),
            ("<>", "!="),
            ("<=", "<="),
            (">=", ">="),
            ("<", "<"),
            (">", ">"),
            ("[", "["),
            ("]", "]"),
            ("(", "("),
            (")", ")"),
            (":", ":"),
            (".", "."),
            (",", ","),
            ("*", "*"),
        ];
        let is_word = |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '_' | '-');
        let length_of = |is_part: fn(char) -> bool| rest.find(|sign| !is_part(sign)).unwrap_or(rest.len());
        if first == '\'' {
            self.at += 1;
            let text = self.quoted()?;
            self.start += 1;
            self.token = Token::Text(text);
        } else if first.is_ascii_digit() || first == '-' {
            let length = length_of(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '.' | '-' | '+'));
            self.at += length;
            self.token = Token::Number(rest.get(..length).unwrap_or(rest));
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = rest.find(|sign| !is_word(sign)).unwrap_or(rest.len());
            self.at += length;
            let word = rest.get(..length).unwrap_or(rest);
            if matches!(word, "t" | "h" | "b") && self.rest().starts_with('\'') {
                self.at += 1;
                self.quoted()?;
                self.token = Token::Typed;
            } else {
                self.token = Token::Word(word);
            }
        } else {
            let (form, sign) = SIGNS.into_iter().find(|(form, _)| rest.starts_with(form)).ok_or(Unreadable)?;
            self.at += form.len();
            self.token = Token::Sign(sign);
        }
        Ok(())
    }

    /// The rest of a text whose quote was read. A backslash makes the next character a part of it.
    fn quoted(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        let rest = self.rest();
        let plain = rest.find(['\'', '\\']).ok_or(Unreadable)?;
        let start = rest.get(..plain).unwrap_or("");
        if rest.as_bytes().get(plain) == Some(&b'\'') {
            self.at += plain + 1;
            return Ok(Cow::Borrowed(start));
        }
        let mut text = start.to_owned();
        let mut signs = rest.get(plain..).unwrap_or("").char_indices();
        while let Some((place, sign)) = signs.next() {
            match sign {
                '\'' => {
                    self.at += plain + place + 1;
                    return Ok(Cow::Owned(text));
                }
                '\\' => text.push(signs.next().ok_or(Unreadable)?.1),
                sign => text.push(sign),
            }
        }
        Err(Unreadable)
    }

    fn skip_blanks(&mut self) -> Result<(), Unreadable> {
        loop {
            let rest = self.rest();
            let text = rest.trim_start();
            self.at += rest.len() - text.len();
            if text.starts_with("//") {
                self.at += text.find(['\n', '\r']).unwrap_or(text.len());
            } else if let Some(comment) = text.strip_prefix("/*") {
                self.at += comment.find("*/").ok_or(Unreadable)? + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }
}

/// What the path of an object leads to (STIX 2.1, 6): only what surely is an address is taken for one.
fn property(object: &str, keys: &[&str]) -> Property {
    match (object, keys) {
        ("ipv4-addr", ["value"]) => Property::Address("ipv4-addr"),
        ("ipv6-addr", ["value"]) => Property::Address("ipv6-addr"),
        ("network-traffic", ["src_ref" | "dst_ref", "value"]) => Property::Address("network-traffic"),
        (DOMAIN_NAME, ["resolves_to_refs", "value"]) => Property::Address(DOMAIN_NAME),
        ("network-traffic", ["src_ref" | "dst_ref", "type"]) | (DOMAIN_NAME, ["resolves_to_refs", "type"]) => {
            Property::Family
        }
        ("network-traffic", ["src_port" | "dst_port" | "protocols"]) => Property::Port,
        (DOMAIN_NAME, ["value"]) => Property::Name,
        _ => Property::Other,
    }
}

fn is_family(text: &str) -> bool {
    matches!(text, "ipv4-addr" | "ipv6-addr")
}

/// Constants that addresses are compared with. A reference may lead to a name as well.
fn addresses<'a>(kind: &'static str, constants: Vec<(usize, Cow<'a, str>)>) -> Meaning<'a> {
    let is_reference = matches!(kind, "network-traffic" | DOMAIN_NAME);
    let is_name = |text: &str| is_reference && matches!(entry::read(text.trim()), Err(Reason::Name));
    let count = constants.len();
    let addresses: Vec<_> = constants
        .into_iter()
        .filter(|(_, text)| !is_name(text))
        .map(|(at, text)| Address { text, at, kind, port: false })
        .collect();
    let other = (addresses.len() < count || addresses.is_empty()).then_some(NO_ADDRESS);
    Meaning { addresses, other, ..Meaning::default() }
}
