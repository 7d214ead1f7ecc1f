//! Lines of OTLP JSON in a file: one request a line, on stable storage before it counts as delivered.
//!
//! A full file is renamed to `NAME.1`, what had that name to `NAME.2` and so on, and compressed if the configuration says
//! so; beyond the number to keep the oldest is deleted. A write that fails is taken back, so that a full disk leaves no
//! half a line; a half line of an agent that was killed is cut off at the next start. Nobody else may write to the file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use bytes::Bytes;
use tracing::warn;

use super::{
    compress::Compressor,
    counted::SentBytes,
    format,
    retry::{AgainKind, Outcome},
};
use crate::{
    capture::lock,
    config::{Compression, Destination, Rotation},
};

/// How every line begins.
const LINE_START: &[u8] = b"{\"resourceSpans\":";
/// Ends of names that a full file may have.
const SUFFIXES: [&str; 3] = ["", ".gz", ".zst"];

pub(super) struct FileClient {
    log: Arc<Mutex<Lines>>,
    written: SentBytes,
}

impl FileClient {
    pub(super) fn new(destination: &Destination) -> Self {
        let log = Lines {
            path: PathBuf::from(&destination.url.path),
            rotation: destination.file.clone().unwrap_or_default(),
            compressor: Compressor::new(destination.compression, destination.compression_level),
            packs: destination.compression != Compression::None,
            open: None,
        };
        Self { log: Arc::new(Mutex::new(log)), written: SentBytes::default() }
    }

    /// Bytes written, before a full file is compressed.
    pub(super) fn sent(&self) -> u64 {
        self.written.get()
    }

    pub(super) async fn send(&self, body: Bytes) -> Outcome {
        let (log, written_bytes) = (Arc::clone(&self.log), self.written.clone());
        let written = tokio::task::spawn_blocking(move || {
            let request = format::decode(&body).map_err(Failure::Malformed)?;
            let mut line = format::otlp_json(&request);
            line.push(b'\n');
            lock(&log).append(&line)?;
            written_bytes.add(line.len());
            Ok(())
        });
        match written.await {
            Ok(Ok(())) => Outcome::Delivered { rejected: 0, message: String::new() },
            Ok(Err(Failure::Malformed(cause))) => Outcome::Never { cause },
            Ok(Err(Failure::Io(cause))) => Outcome::again(AgainKind::Unavailable, cause),
            Err(stopped) => Outcome::again(AgainKind::Unavailable, format!("the writer stopped: {stopped}")),
        }
    }
}

enum Failure {
    Malformed(String),
    Io(String),
}

/// The file and its predecessors.
struct Lines {
    path: PathBuf,
    rotation: Rotation,
    compressor: Compressor,
    packs: bool,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// Bytes of whole lines.
    len: u64,
    /// When its first line was written.
    since: SystemTime,
}

impl Lines {
    /// Writes a line, or leaves the file as it was.
    fn append(&mut self, line: &[u8]) -> Result<(), Failure> {
        let failed = |path: &Path, what: &str, cause: io::Error| {
            Failure::Io(format!("cannot {what} {}: {cause}{}", path.display(), hint(&cause)))
        };
        let mut open = match self.open.take() {
            Some(open) if self.is_there(&open) => open,
            _ => Open::new(&self.path).map_err(|cause| failed(&self.path, "open", cause))?,
        };
        if self.is_full(&open, line.len() as u64) {
            drop(open);
            self.rotate().map_err(|cause| failed(&self.path, "rename", cause))?;
            open = Open::new(&self.path).map_err(|cause| failed(&self.path, "open", cause))?;
        }
        // Not kept after a failure: the file is opened, and looked at, anew.
        open.append(line).map_err(|cause| failed(&self.path, "write to", cause))?;
        self.open = Some(open);
        Ok(())
    }

    /// Whether the name still stands for the open file: somebody may have moved or deleted it.
    fn is_there(&self, open: &Open) -> bool {
        let of = |meta: io::Result<fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
        of(fs::metadata(&self.path)).is_some_and(|id| Some(id) == of(open.file.metadata()))
    }

    fn is_full(&self, open: &Open, more: u64) -> bool {
        let too_large = open.len + more > self.rotation.max_bytes.0;
        // A clock that was set back makes no file old.
        let age = SystemTime::now().duration_since(open.since).unwrap_or_default();
        open.len > 0 && (too_large || age > self.rotation.max_age.0)
    }

    fn numbered(&self, number: u32, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}{suffix}"));
        name.into()
    }

    fn rotate(&self) -> io::Result<()> {
        for suffix in SUFFIXES {
            ignore_missing(fs::remove_file(self.numbered(self.rotation.keep, suffix)))?;
        }
        for number in (1..self.rotation.keep).rev() {
            for suffix in SUFFIXES {
                ignore_missing(fs::rename(self.numbered(number, suffix), self.numbered(number + 1, suffix)))?;
            }
        }
        fs::rename(&self.path, self.numbered(1, ""))?;
        sync_folder(&self.path)?;
        if self.packs {
            self.pack_all();
        }
        Ok(())
    }

    /// Compresses what is not yet, which may be more than the last one: there may have been no room, or no time.
    fn pack_all(&self) {
        for number in 1..=self.rotation.keep {
            let plain = self.numbered(number, "");
            if let Err(cause) = ignore_missing(self.pack(&plain, &self.numbered(number, self.compressor.suffix()))) {
                warn!("{} stays uncompressed for now: {cause}", plain.display());
            }
        }
    }

    fn pack(&self, plain: &Path, packed: &Path) -> io::Result<()> {
        let mut from = File::open(plain)?;
        let mut unfinished = packed.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let written = create(Path::new(&unfinished)).and_then(|mut to| {
            to.set_len(0)?;
            self.compressor.copy(&mut from, &mut to)?;
            to.sync_all()
        });
        if let Err(cause) = written {
            fs::remove_file(&unfinished)?;
            return Err(cause);
        }
        fs::rename(&unfinished, packed)?;
        sync_folder(packed)?;
        fs::remove_file(plain)
    }
}

impl Open {
    /// Opens or creates the file, alone, without a half line at its end.
    fn new(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        }
        let mut file = create(path)?;
        file.try_lock().map_err(|cause| io::Error::other(format!("another process writes to it: {cause}")))?;
        sync_folder(path)?;
        let len = whole_lines(&mut file)?;
        file.set_len(len)?;
        file.seek(SeekFrom::Start(len))?;
        let created = file.metadata()?.created().ok();
        let since = created.filter(|_| len > 0).unwrap_or_else(SystemTime::now);
        Ok(Self { file, len, since })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(line).and_then(|()| self.file.sync_data());
        if let Err(cause) = written {
            // If this fails as well, the next one to open the file does it.
            let _ = self.file.set_len(self.len);
            return Err(cause);
        }
        self.len += line.len() as u64;
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)
}

/// Length up to the last end of a line. What follows must be ours, or it is not cut off.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let len = file.metadata()?.len();
    let mut end = len;
    let mut buffer = Vec::new();
    let mut whole = 0;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        buffer.resize(usize::try_from(end - start).unwrap_or_default(), 0);
        file.read_exact_at(&mut buffer, start)?;
        if let Some(at) = buffer.iter().rposition(|byte| *byte == b'\n') {
            whole = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(whole))?;
    file.take(LINE_START.len() as u64).read_to_end(&mut rest)?;
    if LINE_START.starts_with(&rest) {
        return Ok(whole);
    }
    Err(io::Error::other("its last line is not finished, and not of this agent; name another file"))
}

/// Makes names in the folder of `path` last.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; the spans wait in the log until there is room",
        io::ErrorKind::PermissionDenied => "; let the agent's user write there",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::format::samples, *};
    use crate::config::{Interval, Size};
    use prost::Message;

    fn lines(path: &Path, rotation: Rotation, compression: Compression) -> Lines {
        let compressor = Compressor::new(compression, None);
        Lines { path: path.to_owned(), rotation, compressor, packs: compression != Compression::None, open: None }
    }

    fn names(folder: &Path) -> Vec<String> {
        let all = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A line of ten bytes.
    fn line(n: u32) -> String {
        format!("{{\"{n:05}\"}}\n")
    }

    fn append(lines: &mut Lines, line: &str) -> Result<(), String> {
        lines.append(line.as_bytes()).map_err(|failure| match failure {
            Failure::Malformed(cause) | Failure::Io(cause) => cause,
        })
    }

    #[tokio::test]
    async fn requests_are_lines_that_are_there_when_they_count_as_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/spans.jsonl");
        let mut to = Destination::to(format!("file:{}", path.display()).parse().unwrap());
        to.name = "f".into();
        let client = FileClient::new(&to);
        let body = Bytes::from(samples::full().encode_to_vec());
        let delivered = Outcome::Delivered { rejected: 0, message: String::new() };
        assert_eq!(client.send(body.clone()).await, delivered);
        assert_eq!(client.send(body).await, delivered);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            assert!(line.as_bytes().starts_with(LINE_START));
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(json["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "GET /a");
        }
        assert!(matches!(client.send(Bytes::from_static(b"\xff")).await, Outcome::Never { .. }));
        let second = FileClient::new(&to);
        let Outcome::Again { cause, .. } = second.send(Bytes::new()).await else { panic!() };
        assert!(cause.contains("another process"), "{cause}");
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = Rotation { max_bytes: Size(20), keep: 2, ..Rotation::default() };
        let mut lines = lines(&folder.path().join("s"), rotation, Compression::None);
        for n in 0..9 {
            append(&mut lines, &line(n)).unwrap();
        }
        assert_eq!(names(folder.path()), ["s", "s.1", "s.2"]);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("s"), read("s.1"), read("s.2")), (line(8), line(6) + &line(7), line(4) + &line(5)));
        append(&mut lines, &"x".repeat(100)).unwrap();
        assert_eq!(read("s").len(), 100, "one request may exceed the size");
    }

    #[test]
    fn full_files_are_compressed_even_if_that_was_not_possible_at_first() {
        for (compression, suffix) in [(Compression::Gzip, ".gz"), (Compression::Zstd, ".zst")] {
            let folder = tempfile::tempdir().unwrap();
            let rotation = Rotation { max_bytes: Size(10), keep: 3, ..Rotation::default() };
            let path = folder.path().join("s");
            fs::write(folder.path().join("s.1"), "left by an agent that was killed").unwrap();
            let mut lines = lines(&path, rotation, compression);
            append(&mut lines, &line(0)).unwrap();
            append(&mut lines, &line(1)).unwrap();
            assert_eq!(names(folder.path()), ["s".to_owned(), format!("s.1{suffix}"), format!("s.2{suffix}")]);
            let packed = File::open(folder.path().join(format!("s.1{suffix}"))).unwrap();
            let mut text = String::new();
            match compression {
                Compression::Gzip => flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap(),
                _ => zstd::Decoder::new(packed).unwrap().read_to_string(&mut text).unwrap(),
            };
            assert_eq!(text, line(0));
        }
    }

    #[test]
    fn an_old_file_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = Rotation { max_age: Interval::secs(3600), ..Rotation::default() };
        let mut lines = lines(&folder.path().join("s"), rotation, Compression::None);
        append(&mut lines, &line(0)).unwrap();
        append(&mut lines, &line(1)).unwrap();
        assert_eq!(names(folder.path()), ["s"]);
        lines.open.as_mut().unwrap().since = SystemTime::now() - std::time::Duration::from_secs(3601);
        append(&mut lines, &line(2)).unwrap();
        assert_eq!(names(folder.path()), ["s", "s.1"]);
    }

    #[test]
    fn half_a_line_of_a_killed_agent_is_cut_off_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let whole = line(0).repeat(20_000);
        for torn in ["", "{", "{\"resourceSp", "{\"resourceSpans\":[{\"scope"] {
            fs::write(&path, format!("{whole}{torn}")).unwrap();
            append(&mut lines(&path, Rotation::default(), Compression::None), &line(1)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), whole.clone() + &line(1), "{torn}");
        }
        for foreign in ["not ours", "{\"other\": 1}"] {
            fs::write(&path, foreign).unwrap();
            let error = append(&mut lines(&path, Rotation::default(), Compression::None), &line(1)).unwrap_err();
            assert!(error.contains("name another file"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_created_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut lines = lines(&path, Rotation::default(), Compression::None);
        append(&mut lines, &line(0)).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        append(&mut lines, &line(1)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), line(1));
    }

    #[test]
    fn a_full_disk_is_told_and_takes_nothing() {
        // Always full, as the kernel says (`man 4 full`).
        let mut open = Open { file: create(Path::new("/dev/full")).unwrap(), len: 0, since: SystemTime::now() };
        let cause = open.append(b"line\n").unwrap_err();
        assert_eq!((cause.kind(), open.len), (io::ErrorKind::StorageFull, 0));
        assert!(hint(&cause).contains("until there is room"));
    }
}
