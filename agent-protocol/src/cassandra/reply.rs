//! Answers: error codes, and what is learned of prepared statements and the keyspace.

use super::{
    frame::{self, Header, text},
    request::Context,
    statements::Id,
};
use crate::{
    fields::{Fields, name},
    session::{Facts, Outcome, Side},
    text::Text,
};

/// Kinds of RESULT.
const SET_KEYSPACE: u32 = 3;
const PREPARED: u32 = 4;
/// The metadata names one table for all columns.
const GLOBAL_TABLE: u32 = 1;

/// What an answer says; `body` is its captured part, `None` if it is compressed and cannot be opened.
pub(super) fn facts(header: &Header, body: Option<&[u8]>, context: &mut Context) -> Facts {
    let mut fields = Fields(body.unwrap_or_default());
    let read = header.skip_extras(&mut fields, Side::Server);
    if header.opcode != frame::ERROR {
        let prepared = read.and_then(|()| result(header, fields, context));
        context.statements.answered(header.stream, prepared);
        return Facts::default().outcome(Outcome::Ok);
    }
    context.statements.answered(header.stream, None);
    match read.and_then(|()| fields.u32()) {
        Some(code) => error(code),
        // That it failed is sure.
        None => Facts::default().outcome(Outcome::Error("_OTHER".into())),
    }
}

/// Codes as the protocol writes them: hexadecimal. Those from 0x2000 on, and errors of the protocol and the login, blame the request.
fn error(code: u32) -> Facts {
    let written = format!("{code:#06x}");
    let of_the_client = matches!(code, 0x000a | 0x0100 | 0x2000..=0x2fff);
    let error_type = written.clone().into();
    let outcome = if of_the_client { Outcome::ClientError(error_type) } else { Outcome::Error(error_type) };
    Facts::default().with("db.response.status_code", written).outcome(outcome)
}

/// A statement's id, and the table that its values are for, if that was answered; notes a keyspace that was set.
fn result<'a>(
    header: &Header,
    mut fields: Fields<'a>,
    context: &mut Context,
) -> Option<(Id, Option<(&'a str, &'a str)>)> {
    if header.opcode != frame::RESULT {
        return None;
    }
    match fields.u32()? {
        SET_KEYSPACE => {
            context.keyspace = name(text(&mut fields)?).map(|name| Text::Shared(name.into()));
            None
        }
        PREPARED => {
            let id = text(&mut fields)?.try_into().ok()?;
            Some((id, table(header, &mut fields)))
        }
        _ => None,
    }
}

/// The keyspace and the table that a prepared statement's values are for.
fn table<'a>(header: &Header, fields: &mut Fields<'a>) -> Option<(&'a str, &'a str)> {
    if header.version == 5 {
        text(fields)?;
    }
    let (flags, _columns) = (fields.u32()?, fields.u32()?);
    if header.version >= 4 {
        // Which values make up the partition's key.
        let keys = fields.u32()? as usize;
        fields.skip(keys.checked_mul(2)?)?;
    }
    if flags & GLOBAL_TABLE == 0 {
        return None;
    }
    Some((name(text(fields)?)?, name(text(fields)?)?))
}
