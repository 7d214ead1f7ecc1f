//! Goes through attributes and edits them in place.
//!
//! In: a `KeyValue` field of a span, event, link, scope or resource. Out: edits in an [`Editor`]. Called by [`super::rewrite`].
//! Looks into arrays and pairs, [`NESTED_MAX`] deep; what is deeper becomes `{nested}`, since it was not looked at. Bytes are looked
//! at like text. Fields that this version of the protocol does not know are neither changed nor looked at.

use std::{hash::Hasher, ops::Range};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::{
    patterns::{CARD_NUMBER_MIN, Patterns, is_card_number},
    rules::{Fate, Form, KeyCache, KeyRule, RENAMES_MAX, Rules, SYSTEM_KEYS},
    statement::{Normalised, Statements},
    url,
};
use crate::wire::{
    Editor, Field, Fields, Malformed, PlainPair, Value, field_number as number, is_short_pair, pair, put_bytes,
};

/// Arrays and pairs within each other.
pub const NESTED_MAX: usize = 32;

/// The attributes that belong together, for rules that look at several.
#[derive(Clone, Debug)]
pub(super) struct List<'a> {
    body: Range<usize>,
    number: u32,
    server: bool,
    /// New keys that are there, once somebody asked.
    present: Option<[u64; RENAMES_MAX / 64]>,
    /// What `db.system.name` says, likewise.
    system: Option<&'a [u8]>,
    /// What it said up to here, the end of the attribute that is looked at.
    system_so_far: &'a [u8],
    at: usize,
    /// Attributes before the next one.
    seen: usize,
}

impl List<'_> {
    /// Of the message at `body`, which has them as field `number`; `server`: of a span of kind server or consumer.
    pub fn new(body: Range<usize>, number: u32, server: bool) -> Self {
        Self { at: body.start, body, number, server, system: None, system_so_far: b"", present: None, seen: 0 }
    }
}

/// Texts without a key that came last.
const TEXTS: usize = 8;
/// Attributes that came last, each by its place in its list: those of one span are mostly as those of the span before. A power of two.
const REPEATS: usize = 32;

/// An attribute, and what becomes of it wherever it stands: it stays, or is left out.
#[derive(Clone, Copy, Default)]
struct Repeat<'a> {
    field: &'a [u8],
    is_dropped: bool,
}

/// What became of an attribute whose key stays and whose value, if it does, is only looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    Stays,
    Dropped,
    /// It was changed, or what becomes of it depends on others.
    Other,
    /// It has to be read another way.
    Unread,
}

/// Edits attributes.
pub(super) struct Walker<'a, 'r> {
    request: &'a [u8],
    rules: &'r Rules,
    patterns: &'r Patterns,
    /// Nothing is done with any attribute but to see that it can be read.
    is_idle: bool,
    keys: KeyCache<'a>,
    repeats: [Repeat<'a>; REPEATS],
    statements: Statements,
    names: url::Names<'a>,
    /// Texts in which there was nothing to hide.
    clean: [&'a [u8]; TEXTS],
    /// The same of a statement that has lost its literals: those with other literals become the same.
    clean_statement: Vec<u8>,
    /// Values replaced and attributes left out.
    pub redacted: u64,
    scratch: [Vec<u8>; 2],
}

impl<'a, 'r> Walker<'a, 'r> {
    pub fn new(request: &'a [u8], rules: &'r Rules, patterns: &'r Patterns) -> Self {
        Self {
            request,
            rules,
            patterns,
            is_idle: rules.is_idle(),
            repeats: [Repeat::default(); REPEATS],
            keys: KeyCache::new(rules),
            statements: Statements::new(),
            names: url::Names::default(),
            clean: [b""; TEXTS],
            clean_statement: vec![],
            redacted: 0,
            scratch: [vec![], vec![]],
        }
    }

    /// All attributes of a list that has nothing but [short](Fields::next_short) ones with this tag.
    pub fn run(&mut self, editor: &mut Editor<'a>, tag: u8, list: &mut List<'a>) -> Result<(), Malformed> {
        let mut fields = Fields::new(self.request, list.body.clone());
        while let Some(field) = fields.next_short(tag) {
            if !(self.is_idle && is_short_pair(&self.request[field.bytes()?])) {
                self.attribute(editor, &field, list)?;
            }
        }
        Ok(())
    }

    /// One attribute of a list.
    #[inline]
    pub fn attribute(&mut self, editor: &mut Editor<'a>, field: &Field, list: &mut List<'a>) -> Result<(), Malformed> {
        let body = field.bytes()?;
        list.at = field.end;
        let place = list.seen % REPEATS;
        list.seen += 1;
        let repeat = self.repeats[place];
        if repeat.field == &self.request[field.range()] {
            if repeat.is_dropped {
                self.drop_attribute(editor, field);
            }
            return Ok(());
        }
        let became = match PlainPair::read(self.request, body.clone()) {
            Some(plain) if self.is_idle => scalar(&plain.member)?,
            Some(plain) => self.plain(editor, field, &plain, list)?,
            None => Became::Unread,
        };
        match became {
            Became::Stays | Became::Dropped => {
                let is_dropped = became == Became::Dropped;
                self.repeats[place] = Repeat { field: &self.request[field.range()], is_dropped };
                Ok(())
            }
            Became::Other => Ok(()),
            Became::Unread => self.any_attribute(editor, field, list),
        }
    }

    /// An attribute that has one value.
    #[inline]
    fn plain(
        &mut self,
        editor: &mut Editor<'a>,
        field: &Field,
        plain: &PlainPair,
        list: &mut List<'a>,
    ) -> Result<Became, Malformed> {
        let (place, rule) = self.keys.place(self.rules, &self.request[plain.key.clone()]);
        if rule.rename.is_some() || rule.is_system {
            return Ok(Became::Unread);
        }
        match rule.fate {
            Fate::Look => {}
            Fate::Drop => {
                self.drop_attribute(editor, field);
                return Ok(Became::Dropped);
            }
            Fate::Allow => return Ok(Became::Stays),
            Fate::Hash => return Ok(Became::Unread),
        }
        let member = &plain.member;
        if !matches!(member.number, number::any::STRING | number::any::BYTES) {
            return scalar(member);
        }
        if self.is_secret(member.bytes()?, place, rule.form, list)? {
            self.redacted += 1;
            editor.replace_text(field, plain, &self.scratch[0]);
            return Ok(Became::Other);
        }
        // What a statement says depends on whose SQL it is.
        Ok(if rule.form == Form::Statement { Became::Other } else { Became::Stays })
    }

    /// [`Self::look`], of the only value of the key at `place`.
    #[inline]
    fn is_secret(
        &mut self,
        range: Range<usize>,
        place: usize,
        form: Form,
        list: &mut List<'a>,
    ) -> Result<bool, Malformed> {
        // Of statements more is remembered, since what they say depends on whose SQL it is.
        if form == Form::Statement {
            let system = self.system(Some(list))?;
            return Ok(self.look(range, form, system));
        }
        let text = &self.request[range.clone()];
        if *self.keys.clean(place) == text {
            return Ok(false);
        }
        let found = self.look(range, form, b"");
        if !found {
            *self.keys.clean(place) = text;
        }
        Ok(found)
    }

    fn drop_attribute(&mut self, editor: &mut Editor<'a>, field: &Field) {
        self.redacted += 1;
        editor.delete(field.range());
    }

    fn any_attribute(&mut self, editor: &mut Editor<'a>, field: &Field, list: &mut List<'a>) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let rule = self.rule(body.clone())?;
        if rule.is_system
            && let Value::Text(system) = self.value_of(body.clone())?
        {
            list.system_so_far = system;
        }
        if rule.fate == Fate::Drop {
            self.drop_attribute(editor, field);
            return Ok(());
        }
        let new_key = rule.rename.map(|rename| self.rules.new_key(rename, list.server));
        if let Some((index, key)) = new_key {
            if self.is_present(list, index)? {
                editor.delete(field.range());
                return Ok(());
            }
            editor.enter(length, &body);
            self.pair(editor, body, rule, Some(key), Some(list), 0)?;
        } else {
            editor.enter(length, &body);
            self.pair(editor, body, rule, None, Some(list), 0)?;
        }
        editor.leave();
        Ok(())
    }

    /// A text that is no attribute's: a span's name, an event's, a status message.
    #[inline]
    pub fn text(&mut self, editor: &mut Editor<'a>, field: &Field) -> Result<(), Malformed> {
        let range = field.bytes()?;
        if self.is_idle {
            return Ok(());
        }
        let text = &self.request[range.clone()];
        let place = (text.len() ^ usize::from(text.last().copied().unwrap_or_default())) % TEXTS;
        if self.clean[place] == text {
            return Ok(());
        }
        if self.look(range, Form::Plain, b"") {
            self.put_found(editor, field);
        } else {
            self.clean[place] = text;
        }
        Ok(())
    }

    #[inline]
    fn rule(&mut self, body: Range<usize>) -> Result<KeyRule, Malformed> {
        let (mut key, mut fields) = (&[][..], Fields::new(self.request, body));
        while let Some(field) = fields.next()? {
            if field.number == number::key_value::KEY {
                key = &self.request[field.bytes()?];
            }
        }
        Ok(self.keys.rule(self.rules, key))
    }

    /// Whether a new key is there already; it is from now on.
    fn is_present(&mut self, list: &mut List<'a>, index: u16) -> Result<bool, Malformed> {
        let mut present = match list.present {
            Some(present) => present,
            None => self.present(list)?,
        };
        let (word, bit) = (usize::from(index) / 64, 1 << (index % 64));
        let found = present[word] & bit != 0;
        present[word] |= bit;
        list.present = Some(present);
        Ok(found)
    }

    fn present(&mut self, list: &List<'a>) -> Result<[u64; RENAMES_MAX / 64], Malformed> {
        let mut present = [0; RENAMES_MAX / 64];
        let mut fields = Fields::new(self.request, list.body.clone());
        while let Some(field) = fields.next()? {
            if field.number != list.number {
                continue;
            }
            if let Some(target) = self.rule(field.bytes()?)?.target {
                present[usize::from(target) / 64] |= 1 << (target % 64);
            }
        }
        Ok(present)
    }

    /// The fields of a `KeyValue` that was entered.
    fn pair(
        &mut self,
        editor: &mut Editor<'a>,
        body: Range<usize>,
        rule: KeyRule,
        new_key: Option<&str>,
        mut list: Option<&mut List<'a>>,
        depth: usize,
    ) -> Result<(), Malformed> {
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            match (field.number, new_key) {
                (number::key_value::KEY, Some(key)) => {
                    editor.replace_field(field.range(), number::key_value::KEY, key.as_bytes());
                }
                (number::key_value::VALUE, _) => match rule.fate {
                    Fate::Hash => self.hash(editor, &field)?,
                    Fate::Look => self.value(editor, &field, rule.form, list.as_deref_mut(), depth)?,
                    Fate::Allow | Fate::Drop => {}
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn value(
        &mut self,
        editor: &mut Editor<'a>,
        field: &Field,
        form: Form,
        mut list: Option<&mut List<'a>>,
        depth: usize,
    ) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        editor.enter(length, &body);
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            match field.number {
                number::any::STRING | number::any::BYTES => {
                    let range = field.bytes()?;
                    let system = if form == Form::Statement { self.system(list.as_deref_mut())? } else { &[] };
                    if self.look(range, form, system) {
                        self.put_found(editor, &field);
                    }
                }
                number::any::INT => self.integer(editor, &field, field.varint()? as i64),
                number::any::BOOL => _ = field.varint()?,
                number::any::DOUBLE => _ = field.fixed64()?,
                number::any::ARRAY | number::any::PAIRS => {
                    self.nested(editor, &field, form, list.as_deref_mut(), depth + 1)?
                }
                _ => {}
            }
        }
        editor.leave();
        Ok(())
    }

    /// An `ArrayValue` or a `KeyValueList`.
    fn nested(
        &mut self,
        editor: &mut Editor<'a>,
        outer: &Field,
        form: Form,
        mut list: Option<&mut List<'a>>,
        depth: usize,
    ) -> Result<(), Malformed> {
        let (length, body) = outer.message()?;
        if depth > NESTED_MAX {
            if self.rules.look_at_values() {
                self.put_text(editor, outer, b"{nested}");
            }
            return Ok(());
        }
        editor.enter(length, &body);
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            match (field.number, outer.number) {
                (number::list::VALUES, number::any::ARRAY) => {
                    self.value(editor, &field, form, list.as_deref_mut(), depth)?
                }
                (number::list::VALUES, _) => self.nested_pair(editor, &field, depth)?,
                _ => {}
            }
        }
        editor.leave();
        Ok(())
    }

    /// A pair that is no attribute of its own keeps its key.
    fn nested_pair(&mut self, editor: &mut Editor<'a>, field: &Field, depth: usize) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let rule = self.rule(body.clone())?;
        if rule.fate == Fate::Drop {
            self.drop_attribute(editor, field);
            return Ok(());
        }
        editor.enter(length, &body);
        self.pair(editor, body, rule, None, None, depth)?;
        editor.leave();
        Ok(())
    }

    fn integer(&mut self, editor: &mut Editor<'a>, field: &Field, value: i64) {
        if value >= CARD_NUMBER_MIN && self.rules.redact.patterns && is_card_number(value) {
            self.put_text(editor, field, b"{card}");
        }
    }

    /// Whether there is something to hide in a text; what stands in its place is then in `scratch`.
    #[inline]
    fn look(&mut self, range: Range<usize>, form: Form, system: &[u8]) -> bool {
        let text = &self.request[range];
        if form == Form::Plain {
            self.scratch[0].clear();
            return self.rules.redact.patterns && self.patterns.redact(text, &mut self.scratch[0]) > 0;
        }
        self.look_at_form(text, form, system)
    }

    fn look_at_form(&mut self, text: &'a [u8], form: Form, system: &[u8]) -> bool {
        let [found, formed] = &mut self.scratch;
        found.clear();
        formed.clear();
        let changed = match form {
            Form::Plain => false,
            Form::Url | Form::Query => url::redact(text, form == Form::Query, &mut self.names, formed),
            Form::Statement => match self.statements.normalise(text, system) {
                Normalised::Clean => return false,
                Normalised::Unknown => false,
                Normalised::Text(text) => {
                    formed.extend_from_slice(text.as_bytes());
                    true
                }
            },
        };
        let text = if changed { formed.as_slice() } else { text };
        let is_normalised = changed && form == Form::Statement;
        let is_clean = is_normalised && text == self.clean_statement;
        if self.rules.redact.patterns && !is_clean && self.patterns.redact(text, found) > 0 {
            return true;
        }
        if is_normalised && !is_clean {
            self.clean_statement.clear();
            self.clean_statement.extend_from_slice(text);
        }
        std::mem::swap(found, formed);
        changed
    }

    /// Puts what [`look`](Self::look) found in the place of a text or bytes.
    fn put_found(&mut self, editor: &mut Editor<'a>, field: &Field) {
        self.redacted += 1;
        editor.replace_field(field.range(), field.number, &self.scratch[0]);
    }

    /// A member of an `AnyValue` becomes a text.
    fn put_text(&mut self, editor: &mut Editor<'a>, field: &Field, text: &[u8]) {
        self.redacted += 1;
        editor.replace_field(field.range(), number::any::STRING, text);
    }

    /// The value of a `KeyValue` becomes its hash.
    fn hash(&mut self, editor: &mut Editor<'a>, field: &Field) -> Result<(), Malformed> {
        let body = field.bytes()?;
        let value = Value::read(self.request, body.clone())?;
        let hashed = match value {
            Value::Text(text) | Value::Bytes(text) => text,
            _ => &self.request[body],
        };
        let mut hasher = SipHasher13::new_with_key(&self.rules.redact.hash_key);
        hasher.write(hashed);
        let digits = format!("{:032x}", hasher.finish128().as_u128());
        let mut any = Vec::with_capacity(34);
        put_bytes(&mut any, number::any::STRING, digits.as_bytes());
        self.redacted += 1;
        editor.replace_field(field.range(), field.number, &any);
        Ok(())
    }

    /// What a list's `db.system.name`, or its predecessor, says; the last one counts.
    fn system(&self, list: Option<&mut List<'a>>) -> Result<&'a [u8], Malformed> {
        let Some(list) = list else { return Ok(&[]) };
        if let Some(system) = list.system {
            return Ok(system);
        }
        let mut found = list.system_so_far;
        let mut fields = Fields::new(self.request, list.at..list.body.end);
        loop {
            let field = match fields.next_short((list.number << 3 | 2) as u8) {
                Some(field) => field,
                None => match fields.next()? {
                    Some(field) if field.number == list.number => field,
                    Some(_) => continue,
                    None => break,
                },
            };
            let body = field.bytes()?;
            if is_short_pair(&self.request[body.clone()]) && !self.has_system_key(&body) {
                continue;
            }
            let key = match PlainPair::read(self.request, body.clone()) {
                Some(plain) => plain.key,
                None => pair(self.request, body.clone())?.0,
            };
            let is_system = SYSTEM_KEYS.iter().any(|known| known.as_bytes() == &self.request[key.clone()]);
            if is_system && let Value::Text(system) = self.value_of(body)? {
                found = system;
            }
        }
        list.system = Some(found);
        Ok(found)
    }

    /// Of a [short pair](is_short_pair).
    fn has_system_key(&self, body: &Range<usize>) -> bool {
        let [_, length, rest @ ..] = &self.request[body.clone()] else { return false };
        let key = rest.get(..usize::from(*length)).unwrap_or_default();
        SYSTEM_KEYS.iter().any(|known| known.as_bytes() == key)
    }

    /// The value of the `KeyValue` at `body`.
    fn value_of(&self, body: Range<usize>) -> Result<Value<'a>, Malformed> {
        let (_, value) = pair(self.request, body)?;
        value.map_or(Ok(Value::Empty), |field| Value::read(self.request, field.bytes()?))
    }
}

/// The member of a value that is a text or a number in which no card number can be.
#[inline]
fn scalar(member: &Field) -> Result<Became, Malformed> {
    match member.number {
        number::any::STRING | number::any::BYTES => _ = member.bytes()?,
        number::any::BOOL => _ = member.varint()?,
        number::any::DOUBLE => _ = member.fixed64()?,
        number::any::INT if member.varint()? < CARD_NUMBER_MIN as u64 => {}
        _ => return Ok(Became::Unread),
    }
    Ok(Became::Stays)
}
