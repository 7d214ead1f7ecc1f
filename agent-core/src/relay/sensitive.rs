//! Keys whose values are secrets by their names.
//!
//! A key is read as words: cut at everything that is no letter and no digit, and where a capital follows a small letter. It is
//! sensitive if its last words, put together, are one of [`SENSITIVE_KEYS`], so that `http.request.header.authorization`,
//! `X-Api-Key`, `dbPassword` and `session.id` are, and `token_count` is not. A plural is none: `gen_ai.usage.input_tokens`.

/// Names of secrets, in one word and lower case.
pub const SENSITIVE_KEYS: &[&str] = &[
    "accesskey",
    "accesskeyid",
    "accesstoken",
    "apikey",
    "authorization",
    "authtoken",
    "bearer",
    "cardnumber",
    "clientsecret",
    "connectionstring",
    "cookie",
    "credential",
    "credentials",
    "creditcard",
    "creditcardnumber",
    "csrf",
    "cvc",
    "cvv",
    "encryptionkey",
    "iban",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "proxyauthorization",
    "pwd",
    "refreshtoken",
    "secret",
    "secretaccesskey",
    "secretkey",
    "sessionid",
    "sessionkey",
    "setcookie",
    "signingkey",
    "socialsecuritynumber",
    "ssn",
    "token",
    "xsrf",
];

/// The longest of them, and of what is looked at of a key.
const NAME_BYTES_MAX: usize = 24;

/// Whether the key's last words are one of [`SENSITIVE_KEYS`].
pub(super) fn is_sensitive(key: &[u8]) -> bool {
    // From the end: the words so far, reversed into the buffer's tail.
    let (mut name, mut start) = ([0_u8; NAME_BYTES_MAX], NAME_BYTES_MAX);
    for (index, byte) in key.iter().enumerate().rev() {
        if !byte.is_ascii_alphanumeric() {
            continue;
        }
        if start == 0 {
            return false;
        }
        start -= 1;
        name[start] = byte.to_ascii_lowercase();
        if begins_word(key, index) && is_name(&name[start..]) {
            return true;
        }
    }
    false
}

fn begins_word(key: &[u8], index: usize) -> bool {
    let Some(before) = index.checked_sub(1).map(|before| key[before]) else { return true };
    !before.is_ascii_alphanumeric() || (key[index].is_ascii_uppercase() && !before.is_ascii_uppercase())
}

fn is_name(name: &[u8]) -> bool {
    SENSITIVE_KEYS.binary_search_by(|known| known.as_bytes().cmp(name)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_fit() {
        assert!(SENSITIVE_KEYS.is_sorted());
        assert!(SENSITIVE_KEYS.iter().all(|name| name.len() <= NAME_BYTES_MAX && is_sensitive(name.as_bytes())));
    }

    #[test]
    fn the_last_words_decide() {
        for key in [
            "http.request.header.authorization",
            "http.request.header.x-api-key",
            "http.response.header.set_cookie",
            "X-API-KEY",
            "apiKey",
            "dbPassword",
            "DB_PASSWORD",
            "session.id",
            "aws.secretAccessKey",
            "access_token",
            "user.credit_card",
            "password",
            "x/y:secret",
        ] {
            assert!(is_sensitive(key.as_bytes()), "{key}");
        }
        for key in [
            "",
            "http.request.method",
            "token_count",
            "gen_ai.usage.input_tokens",
            "password_changed",
            "monkey",
            "assesspwdx",
            "mypassword",
            "secretary",
            "a.very.long.key.of.many.words.that.is.harmless",
        ] {
            assert!(!is_sensitive(key.as_bytes()), "{key}");
        }
    }
}
