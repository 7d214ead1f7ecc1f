//! Why nothing is seen of what a process sends and receives by TLS.
//!
//! In: the files that a process executes. Out: words for an operator. Called when somebody asks. Looks for the names that TLS
//! libraries leave in the files they are linked into; what it says is where the bytes are not to be had, not a proof of
//! which library made a connection.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    sync::{Mutex, PoisonError},
};

use super::{
    files::{self, FileId, Mapped},
    lease::Stamp,
};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// Most bytes of a file that are looked at.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// A TLS library is larger, and so is what it is linked into.
const FILE_BYTES_MIN: u64 = 1 << 20;
/// Most files of which the answer is kept.
const ANSWERS_MAX: usize = 4096;

/// What a library leaves behind, and how it is called. The first that is found is told.
const MARKS: &[(&[u8], &str)] = &[
    (b"boringssl", "BoringSSL, linked in without symbols"),
    (b"rustls", "rustls, which has no functions that can be found by name"),
    (b"\xff Go buildinf:", "Go's crypto/tls, whose functions were not found"),
    (b"OpenSSL 3.", "OpenSSL, linked in without symbols"),
    (b"OpenSSL 1.", "OpenSSL, linked in without symbols"),
    (b"wolfSSL", "wolfSSL"),
    (b"mbedtls", "Mbed TLS"),
    (b"s2n_negotiate", "s2n-tls"),
];

/// Answers by file, as it was when it was looked through.
static ANSWERS: Mutex<Option<Answers>> = Mutex::new(None);
type Answers = HashMap<(FileId, Stamp), Option<&'static str>>;

/// What a process seems to use besides the files that are probed; `None` if nothing is known of it.
pub fn of(pid: u32, is_probed: impl Fn(&Mapped) -> bool) -> Option<String> {
    let files = files::of(pid);
    let name = |mapped: &Mapped| mapped.path.rsplit('/').next().unwrap_or_default().to_owned();
    if files.iter().any(|mapped| name(mapped) == "libjvm.so") {
        return Some(
            "Java's own TLS (JSSE): code that the JVM makes while running has no functions to probe".to_owned(),
        );
    }
    // What everybody uses for hashes says nothing of TLS.
    let mut files = files.iter().filter(|mapped| !name(mapped).starts_with("libcrypto") && !is_probed(mapped));
    files.find_map(|mapped| Some(format!("{}: {}", name(mapped), answer(mapped)?)))
}

fn answer(mapped: &Mapped) -> Option<&'static str> {
    let (file, id) = mapped.open().ok()?;
    let id = (id, Stamp::of(&file).ok()?);
    if file.metadata().is_ok_and(|file| file.len() < FILE_BYTES_MIN) {
        return None;
    }
    let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    let answers = answers.get_or_insert_default();
    if let Some(known) = answers.get(&id) {
        return *known;
    }
    if answers.len() >= ANSWERS_MAX {
        answers.clear();
    }
    let found = mark(&file);
    answers.insert(id, found);
    found
}

/// The first mark in the order of the list.
fn mark(file: &File) -> Option<&'static str> {
    let overlap = MARKS.iter().map(|(mark, _)| mark.len()).max().unwrap_or(0);
    let mut file = file.take(FILE_BYTES_MAX);
    let mut bytes = vec![0; CHUNK + overlap];
    let (mut kept, mut best) = (0, MARKS.len());
    while let Ok(count @ 1..) = file.read(&mut bytes[kept..]) {
        let filled = kept + count;
        let found = MARKS[..best].iter().position(|(mark, _)| memchr::memmem::find(&bytes[..filled], mark).is_some());
        best = found.unwrap_or(best);
        kept = filled.min(overlap);
        bytes.copy_within(filled - kept..filled, 0);
    }
    MARKS.get(best).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn check(before: usize, text: &str, expected: Option<&str>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; before]).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        assert_eq!(mark(&file), expected, "{before} {text}");
    }

    #[test]
    fn a_mark_is_found_wherever_it_lies() {
        let expected = Some("BoringSSL, linked in without symbols");
        for before in [0, 100, CHUNK - 4, CHUNK + 5, 3 * CHUNK - 1] {
            check(before, "external/boringssl/src/ssl", expected);
        }
        check(10, "nothing", None);
    }

    #[test]
    fn of_several_the_first_of_the_list_counts() {
        check(CHUNK * 2, "rustls and boringssl", Some("BoringSSL, linked in without symbols"));
    }
}
