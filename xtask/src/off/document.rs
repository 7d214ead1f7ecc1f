//! Rows of `docs/reference-coverage.md` and the tests that they name.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Tests by row. Rows of the list of mistakes are numbers, those of most others a letter (F, M, S) and a number; destinations are names.
pub struct Document(BTreeMap<String, Vec<String>>);

impl Document {
    /// Reads the tables.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text)
    }

    /// A row is a line `| NAME | … |` that has tests, or whose name has a number; its tests are what stands in backticks and has `::`. Two
    /// rows of one name are an error: an edit could be of either.
    fn parse(text: &str) -> Result<Self> {
        let row = |line: &str| {
            let name = line.strip_prefix('|')?.split('|').next()?.trim();
            let number = name.trim_start_matches(['F', 'M', 'S']);
            let is_numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let tests = line.split('`').skip(1).step_by(2).filter(|word| word.contains("::") || word.starts_with('…'));
            let tests: Vec<String> = tests.map(str::to_owned).collect();
            (is_numbered || !tests.is_empty()).then(|| (name.to_owned(), tests))
        };
        let mut rows = BTreeMap::new();
        for (name, tests) in text.lines().filter_map(row) {
            ensure!(!rows.contains_key(&name), "two rows are called {name}");
            rows.insert(name, tests);
        }
        Ok(Self(rows))
    }

    /// Whether the row names the test: in full, as `path::*`, or with a part replaced by `…`.
    pub fn check(&self, row: &str, test: &str) -> Result<()> {
        let named = self.0.get(row).with_context(|| format!("the document has no row {row}"))?;
        let fits = |name: &String| match (name.strip_suffix('*'), name.split_once('…')) {
            (Some(begin), _) => test.starts_with(begin),
            (None, Some((begin, end))) => test.starts_with(begin) && test.ends_with(end),
            (None, None) => name == test,
        };
        ensure!(named.iter().any(fits), "row {row} does not name {test}, only {named:?}");
        Ok(())
    }

    /// All rows.
    pub fn rows(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_name_their_tests() {
        let document = Document::parse(
            "| | failure |\n|---|---|\n| F1 | x | `a::b`, `c::*`, `…_e` |\n| 17 | y | `a::begin_…` |\n| A queue | z | `q::*` |\n\
             | what | `no test` |\nno `d::row`\n",
        )
        .unwrap();
        for test in ["a::b", "c::anything::else", "x::d_e"] {
            document.check("F1", test).unwrap();
        }
        document.check("17", "a::begin_and_end").unwrap();
        assert!(document.check("F1", "a::c").is_err());
        assert!(document.check("F2", "a::b").is_err());
        assert_eq!(document.rows(), BTreeSet::from(["17", "A queue", "F1"]));
    }

    #[test]
    fn two_rows_of_one_name_are_an_error() {
        let error = Document::parse("| S3 | a scenario | `a::b` |\n| S4 | x | `a::c` |\n| S3 | a store | `c::d` |\n");
        assert!(error.is_err_and(|error| error.to_string() == "two rows are called S3"));
        assert!(Document::parse("| S3 | a scenario | `a::b` |\n| Amazon S3 | a store | `c::d` |\n").is_ok());
    }
}
