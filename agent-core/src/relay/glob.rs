//! `*` and `?` over bytes: keys and values may be no UTF-8, and nothing is said of paths, so no crate's rules fit.

/// A text in which `*` stands for any bytes and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(Box<[u8]>);

impl Glob {
    /// From its text; without `*` and `?` it is exact.
    pub fn new(text: &str) -> Self {
        Self(text.as_bytes().into())
    }

    /// Whether it stands for all of `text`. Time: at most the product of both lengths.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (pattern, mut at, mut in_text) = (&self.0, 0, 0);
        // Behind the last star, and where its match ends so far: all earlier stars are settled.
        let mut star = None;
        while in_text < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    star = Some((at, in_text));
                }
                Some(byte) if *byte == b'?' || *byte == text[in_text] => {
                    at += 1;
                    in_text += 1;
                }
                _ => {
                    let Some((behind, end)) = star else { return false };
                    star = Some((behind, end + 1));
                    at = behind;
                    in_text = end + 1;
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

impl From<&str> for Glob {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let glob = Glob::new(pattern);
        matching.iter().for_each(|text| assert!(glob.matches(text.as_bytes()), "{pattern} is {text}"));
        others.iter().for_each(|text| assert!(!glob.matches(text.as_bytes()), "{pattern} is not {text}"));
    }

    #[test]
    fn stars_and_question_marks() {
        check("", &[""], &["a"]);
        check("abc", &["abc"], &["ab", "abcd", "ABC"]);
        check("*", &["", "a", "a.b"], &[]);
        check("a*c", &["ac", "abc", "abcc"], &["a", "abcd"]);
        check("*.id", &[".id", "user.id", "a.id.id"], &["id", "user.idx"]);
        check("a?c*", &["abc", "abcd"], &["ac"]);
        check("*ab*ab", &["abab", "xababab"], &["ab", "abx"]);
    }
}
