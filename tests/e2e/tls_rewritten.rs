//! A file that is rewritten in place while it is probed: no process ever runs another file's breakpoints.
//!
//! Truth: the bytes of the file, against those that a process has mapped of it. They differ where there is a breakpoint.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use spantap_tests::{
    clock,
    coverage::wait_until_covered,
    process::{Launch, Process, tool},
    temp::TempDir,
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(20);
const NONE: [usize; 0] = [];
/// Maps a file as a program or library is mapped, and stays.
const MAPS: &str = "import mmap, sys, time
with open(sys.argv[1], 'rb') as file:
    memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
print('mapped', flush=True)
time.sleep(600)
";
const OPENSSL: &str = "import _ssl
print(next(line.split()[-1] for line in open('/proc/self/maps') if 'libssl' in line))
";

fn mapping(traced: &Traced, path: &Path) -> Process {
    let launch = Launch::new(tool("python3")).args(["-c", MAPS]).arg(path).stdout_piped();
    let mut process = traced.place().apply(launch).spawn();
    let mut said = String::new();
    BufReader::new(process.stdout()).read_line(&mut said).expect("what it says");
    assert_eq!(said, "mapped\n");
    process
}

/// Where the process has another byte than the file.
fn breakpoints(process: &Process, path: &Path) -> Vec<usize> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid())).expect("the memory map");
    let line = maps.lines().find(|line| line.ends_with(path.to_str().expect("UTF-8"))).expect("it maps the file");
    let start = line.split('-').next().and_then(|start| u64::from_str_radix(start, 16).ok()).expect("an address");
    let file = fs::read(path).expect("the file");
    let mut memory = vec![0; file.len()]; // of the last page there is more than the file
    let source = File::open(format!("/proc/{}/mem", process.pid())).expect("its memory");
    source.read_exact_at(&mut memory, start).expect("what it mapped");
    (0..file.len()).filter(|at| memory[*at] != file[*at]).collect()
}

/// The same code without a name that anybody would look for.
fn renamed(library: &[u8]) -> Vec<u8> {
    let mut other = library.to_vec();
    let names = library.windows(4).enumerate().filter(|(_, bytes)| *bytes == b"SSL_");
    names.for_each(|(at, _)| other[at] = b'X');
    assert!(other != library, "OpenSSL has no names");
    other
}

/// As `cp` does over a file that is there.
fn rewrite(path: &Path, content: &[u8]) {
    let inode = |path| fs::metadata(path).expect("the file").ino();
    let before = inode(path);
    fs::write(path, content).expect("rewrite the file");
    assert_eq!(inode(path), before, "not rewritten in place");
}

/// A copy of OpenSSL, and a process that has it and in which it is probed.
struct Probed {
    traced: Traced,
    path: PathBuf,
    library: Vec<u8>,
    process: Process,
    _folder: TempDir,
}

impl Probed {
    fn new(label: &str) -> Self {
        let (traced, folder) = (Traced::new(label), TempDir::new(label));
        let system = Launch::new(tool("python3")).args(["-c", OPENSSL]).run();
        let library = fs::read(system.trim()).expect("OpenSSL");
        let path = folder.join("library");
        fs::write(&path, &library).expect("copy OpenSSL");
        let process = mapping(&traced, &path);
        wait_until_covered(&traced.agent, process.pid(), "OpenSSL");
        Self { traced, path, library, process, _folder: folder }
    }
}

#[test]
fn a_program_that_was_copied_over_runs_without_the_old_breakpoints() {
    let Probed { traced, path, library, process, _folder } = Probed::new("tls-copied");
    assert!(!breakpoints(&process, &path).is_empty(), "nothing is probed");
    // As a service is stopped, copied over and started.
    drop(process);
    rewrite(&path, &renamed(&library));
    assert_eq!(breakpoints(&mapping(&traced, &path), &path), NONE);
}

#[test]
fn a_library_in_use_is_probed_as_it_is_now() {
    let Probed { traced, path, library, process, _folder } = Probed::new("tls-in-use");
    let probed = breakpoints(&process, &path);
    assert!(!probed.is_empty(), "nothing is probed");
    // One byte that belongs to nothing: the functions are where they were.
    rewrite(&path, &[&library[..], b"x"].concat());
    let is_probed = || (breakpoints(&process, &path) == probed).then_some(());
    clock::wait_for("the file is probed again", BOUND, is_probed);
    rewrite(&path, &renamed(&library));
    assert_eq!(breakpoints(&process, &path), NONE);
    assert_eq!(breakpoints(&mapping(&traced, &path), &path), NONE);
}
