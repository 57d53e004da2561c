//! Finds the members of a request body that matter, by their places, in one pass over its bytes. Nothing is copied and
//! no tree is built; what is of no interest is skipped.

use std::{borrow::Cow, iter, ops::Range};

use memchr::memchr2;

use crate::settings::rules::{FieldPath, Items, Step};

/// Deepest nesting that is accepted (SEC-56).
pub const DEEPEST: usize = 128;

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("The body is not UTF-8: byte {0} is none of it.")]
    Encoding(usize),
    #[error("The body is not valid JSON: {0}.")]
    Syntax(String),
    #[error("The body is nested deeper than {DEEPEST} levels.")]
    Depth,
    #[error("The body must be a JSON object.")]
    NotAnObject,
    #[error("{0}: the member is there twice.")]
    Twice(String),
}

/// What is looked for: places in a body, each with the number under which it is reported.
#[derive(Debug, Clone, Default)]
pub struct Node {
    members: Vec<(String, Node)>,
    /// What is looked for in each item, if the value is a list.
    items: Option<Box<Node>>,
    /// Items reported by their `type`.
    typed: Vec<(Items, usize)>,
    /// Reported as a whole.
    marks: Vec<usize>,
}

impl Node {
    /// Adds a place, to be reported as `mark`.
    pub fn add(&mut self, path: &FieldPath, mark: usize) {
        let mut node = self;
        for Step { name, items } in &path.0 {
            let at = match node.members.iter().position(|(known, _)| known == name) {
                Some(at) => at,
                None => {
                    node.members.push((name.clone(), Self::default()));
                    node.members.len() - 1
                }
            };
            let Some((_, member)) = node.members.get_mut(at) else { return };
            node = member;
            match items {
                None => {}
                Some(Items::All) => node = node.items.get_or_insert_default(),
                Some(typed) => return node.typed.push((typed.clone(), mark)),
            }
        }
        node.marks.push(mark);
    }
}

/// A place that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub mark: usize,
    /// With its name, as it would be removed.
    pub item: Range<usize>,
    pub value: Range<usize>,
    /// The container that holds it.
    pub parent: usize,
}

/// An object or list that was looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// With its name, as it would be removed.
    pub item: Range<usize>,
    pub value: Range<usize>,
    pub count: usize,
    pub parent: Option<usize>,
}

/// What was found, in the order in which it ends.
#[derive(Debug, Default)]
pub struct Outline {
    pub hits: Vec<Hit>,
    /// The first is the body itself.
    pub containers: Vec<Container>,
}

/// Looks for the places of `node` in `body`, after checking that it is UTF-8 and JSON, an object, not nested too deep,
/// and names no member of its own twice: parsers disagree about which one counts.
///
/// # Errors
/// [`Malformed`].
pub fn read(body: &[u8], node: &Node) -> Result<Outline, Malformed> {
    std::str::from_utf8(body).map_err(|error| Malformed::Encoding(error.valid_up_to()))?;
    serde_json::from_slice::<serde::de::IgnoredAny>(body)
        .map_err(|error| Malformed::Syntax(error.to_string()))?;
    let reader = Reader { bytes: body, at: 0 };
    let mut walk = Walk { reader, found: Outline::default(), names: Vec::with_capacity(16) };
    walk.reader.space();
    if walk.reader.peek() != Some(b'{') {
        return Err(Malformed::NotAnObject);
    }
    walk.value(node, walk.reader.at, None, DEEPEST)?;
    let Walk { found, mut names, .. } = walk;
    names.sort_unstable();
    match names.windows(2).find(|pair| matches!(pair, [one, other] if one == other)) {
        Some([name, ..]) => Err(Malformed::Twice(name.chars().take(80).collect())),
        _ => Ok(found),
    }
}

/// The text of a JSON string; `None` if it is none, or holds half a surrogate pair.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice(value).ok().map(Cow::Owned)
}

/// A member of an object: its place with its name, its name, and the place of its value.
pub type Member<'a> = (Range<usize>, Cow<'a, str>, Range<usize>);

/// The members of a JSON object; none of anything else.
pub fn members(object: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut reader = Reader::within(object, b'{');
    iter::from_fn(move || {
        let reader = reader.as_mut()?;
        let (start, name) = reader.next_member()?;
        let value = reader.value();
        Some((start..value.end, name, value))
    })
}

/// The value of a member of a JSON object.
pub fn member<'a>(object: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let (_, _, value) = members(object).find(|(_, name, _)| name == wanted)?;
    object.get(value)
}

/// An item of a JSON list.
pub fn item(list: &[u8], wanted: usize) -> Option<&[u8]> {
    let mut reader = Reader::within(list, b'[')?;
    list.get(iter::from_fn(|| reader.next_item().then(|| reader.value())).nth(wanted)?)
}

struct Walk<'a> {
    reader: Reader<'a>,
    found: Outline,
    /// Of the members of the body itself.
    names: Vec<Cow<'a, str>>,
}

impl Walk<'_> {
    /// Reads the value at hand. `start` is where its item begins: the name, for a member; `left` is how many levels it
    /// may nest.
    fn value(
        &mut self,
        node: &Node,
        start: usize,
        parent: Option<usize>,
        left: usize,
    ) -> Result<(), Malformed> {
        let from = self.reader.at;
        match (self.reader.peek(), left.checked_sub(1)) {
            (Some(b'{'), Some(left)) if parent.is_none() || !node.members.is_empty() => {
                self.object(node, start, parent, left)?;
            }
            (Some(b'['), Some(left)) if node.items.is_some() || !node.typed.is_empty() => {
                self.list(node, start, parent, left)?;
            }
            _ => self.reader.skip(left)?,
        }
        let end = self.reader.at;
        if let Some(parent) = parent {
            let hit =
                |mark: &usize| Hit { mark: *mark, item: start..end, value: from..end, parent };
            self.found.hits.extend(node.marks.iter().map(hit));
        }
        Ok(())
    }

    fn object(
        &mut self,
        node: &Node,
        start: usize,
        parent: Option<usize>,
        left: usize,
    ) -> Result<(), Malformed> {
        let this = self.open(start, parent);
        let mut count = 0;
        while let Some((begin, name)) = self.reader.next_member() {
            count += 1;
            match node.members.iter().find(|(known, _)| *known == name) {
                Some((_, member)) => self.value(member, begin, Some(this), left)?,
                None => self.reader.skip(left)?,
            }
            if parent.is_none() {
                self.names.push(name);
            }
        }
        self.close(this, count);
        Ok(())
    }

    fn list(
        &mut self,
        node: &Node,
        start: usize,
        parent: Option<usize>,
        left: usize,
    ) -> Result<(), Malformed> {
        let this = self.open(start, parent);
        let mut count = 0;
        while self.reader.next_item() {
            count += 1;
            let from = self.reader.at;
            match &node.items {
                Some(inner) => self.value(inner, from, Some(this), left)?,
                None => self.reader.skip(left)?,
            }
            if !node.typed.is_empty() {
                self.by_type(&node.typed, from..self.reader.at, this);
            }
        }
        self.close(this, count);
        Ok(())
    }

    fn by_type(&mut self, typed: &[(Items, usize)], item: Range<usize>, parent: usize) {
        let value = self.reader.bytes.get(item.clone()).unwrap_or_default();
        let kind = member(value, "type").and_then(text).unwrap_or_default();
        for (items, mark) in typed {
            let reported = match items {
                Items::All => true,
                Items::Typed(globs) => globs.iter().any(|glob| glob.matches(&kind)),
                Items::NotTyped(globs) => !globs.iter().any(|glob| glob.matches(&kind)),
            };
            if reported {
                let (item, value) = (item.clone(), item.clone());
                self.found.hits.push(Hit { mark: *mark, item, value, parent });
            }
        }
    }

    /// Goes into the object or list at hand.
    fn open(&mut self, start: usize, parent: Option<usize>) -> usize {
        let at = self.reader.at;
        self.reader.at += 1;
        self.found.containers.push(Container { item: start..at, value: at..at, count: 0, parent });
        self.found.containers.len() - 1
    }

    fn close(&mut self, this: usize, count: usize) {
        if let Some(container) = self.found.containers.get_mut(this) {
            (container.item.end, container.value.end) = (self.reader.at, self.reader.at);
            container.count = count;
        }
    }
}

/// Reads JSON that is known to be valid. On anything else it would find nonsense, but end, and not panic.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the first item of an object or list; `None` if `bytes` are none that begins with `open`.
    fn within(bytes: &'a [u8], open: u8) -> Option<Self> {
        let mut reader = Self { bytes, at: 0 };
        reader.space();
        let is_one = reader.peek() == Some(open);
        reader.at += 1;
        is_one.then_some(reader)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Goes on to the value of the next member; answers where the member begins, and its name. `None`: the object is
    /// over, and read.
    fn next_member(&mut self) -> Option<(usize, Cow<'a, str>)> {
        if !self.next_item() {
            return None;
        }
        let start = self.at;
        self.string();
        let raw = self.bytes.get(start..self.at).unwrap_or_default();
        let name = text(raw).unwrap_or_else(|| String::from_utf8_lossy(raw));
        self.space();
        self.at += 1; // the colon
        self.space();
        Some((start, name))
    }

    /// Goes on to the next item of a list; false: the list is over, and read.
    fn next_item(&mut self) -> bool {
        self.space();
        if self.peek() == Some(b',') {
            self.at += 1;
            self.space();
        }
        let more = !matches!(self.peek(), None | Some(b'}' | b']'));
        self.at += usize::from(!more);
        more
    }

    /// Skips a string.
    fn string(&mut self) {
        self.at += 1;
        while let Some(next) = self.bytes.get(self.at..).and_then(|rest| memchr2(b'"', b'\\', rest))
        {
            self.at += next;
            if self.peek() == Some(b'"') {
                self.at += 1;
                return;
            }
            self.at += 2; // the backslash, and what it stands before
        }
        self.at = self.bytes.len();
    }

    /// Skips a value; answers where it is.
    fn value(&mut self) -> Range<usize> {
        let start = self.at;
        _ = self.skip(usize::MAX); // nothing is nested deeper than that
        start..self.at
    }

    /// Skips a value that is nested at most `deepest` levels.
    fn skip(&mut self, deepest: usize) -> Result<(), Malformed> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                None => return Ok(()),
                Some(b'"') => self.string(),
                Some(b'{' | b'[') => {
                    depth += 1;
                    if depth > deepest {
                        return Err(Malformed::Depth);
                    }
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                Some(b',' | b':' | b' ' | b'\n' | b'\r' | b'\t') => {
                    self.at += 1;
                    continue;
                }
                Some(_) => self.word(),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Skips a number, `true`, `false` or `null`.
    fn word(&mut self) {
        self.at += 1;
        while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests;
