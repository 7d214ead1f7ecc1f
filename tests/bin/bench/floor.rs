//! The least that any tracer on the same hooks can cost: an empty program on each.
//!
//! In: names of tracepoints. Out: a guard that keeps a two-instruction BTF tracepoint program attached to each of them. Made by
//! the `bpf` system call itself, so that there is nothing but the kernel's own trampoline in between.

use std::{
    ffi::c_long,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// `enum bpf_cmd`, `enum bpf_prog_type`, `enum bpf_attach_type` of `include/uapi/linux/bpf.h`.
const PROG_LOAD: c_long = 5;
const RAW_TRACEPOINT_OPEN: c_long = 17;
const PROG_TYPE_TRACING: u32 = 26;
const TRACE_RAW_TP: u32 = 23;

/// `r0 = 0; exit`.
const EMPTY: [u64; 2] = [0xb7, 0x95];
const LICENSE: &[u8] = b"GPL\0";

/// Attached programs; they go with the guard.
pub struct Floor(#[expect(dead_code, reason = "held so that the programs stay attached")] Vec<OwnedFd>);

impl Floor {
    /// Attaches to every one of these; a tracepoint that the kernel does not have ends the benchmark.
    pub fn attach(hooks: &[String]) -> Self {
        let btf = fs::read(BTF).unwrap_or_else(|error| panic!("read {BTF}: {error}"));
        let one = |hook: &String| {
            let id = typedef(&btf, &format!("btf_trace_{hook}")).unwrap_or_else(|| panic!("no tracepoint {hook}"));
            attach(id).unwrap_or_else(|error| panic!("attach an empty program to {hook}: {error}"))
        };
        Self(hooks.iter().flat_map(one).collect())
    }
}

/// Whether the running kernel has a BTF tracepoint of this name.
pub fn has_tracepoint(hook: &str) -> bool {
    fs::read(BTF).is_ok_and(|btf| typedef(&btf, &format!("btf_trace_{hook}")).is_some())
}

/// Program and link.
fn attach(btf_id: u32) -> io::Result<[OwnedFd; 2]> {
    // `union bpf_attr` as BPF_PROG_LOAD reads it, by offset.
    let mut load = Attributes::default();
    load.u32(0, PROG_TYPE_TRACING);
    load.u32(4, EMPTY.len() as u32);
    load.u64(8, EMPTY.as_ptr() as u64);
    load.u64(16, LICENSE.as_ptr() as u64);
    load.u32(68, TRACE_RAW_TP); // expected_attach_type
    load.u32(108, btf_id); // attach_btf_id
    let program = load.call(PROG_LOAD)?;
    // BPF_RAW_TRACEPOINT_OPEN: a name (none: the program knows), the program.
    let mut open = Attributes::default();
    open.u32(8, program.as_raw_fd() as u32);
    let link = open.call(RAW_TRACEPOINT_OPEN)?;
    Ok([program, link])
}

/// `union bpf_attr`: what is not set is zero.
#[derive(Default)]
struct Attributes([u64; 18]);

impl Attributes {
    fn u32(&mut self, offset: usize, value: u32) {
        self.0[offset / 8] |= u64::from(value) << (offset % 8 * 8);
    }

    fn u64(&mut self, offset: usize, value: u64) {
        self.0[offset / 8] = value;
    }

    fn call(&self, command: c_long) -> io::Result<OwnedFd> {
        // SAFETY: the attributes point to constants of this module and are as long as is said.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), size_of_val(&self.0)) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call gave a descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
    }
}

/// The number of the typedef of that name (`Documentation/bpf/btf.rst`: a header, then types, then strings).
fn typedef(btf: &[u8], wanted: &str) -> Option<u32> {
    const TYPEDEF: u32 = 8;
    let word = |at: usize| btf.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let header = word(4)? as usize;
    let (types, types_end) = (header + word(8)? as usize, header + word(8)? as usize + word(12)? as usize);
    let strings = btf.get(header + word(16)? as usize..)?;
    let is_wanted = |offset: u32| {
        let name = strings.get(offset as usize..).unwrap_or_default();
        name.starts_with(wanted.as_bytes()) && name.get(wanted.len()) == Some(&0)
    };
    let (mut at, mut id) = (types, 1);
    while at < types_end {
        let info = word(at + 4)?;
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if kind == TYPEDEF && is_wanted(word(at)?) {
            return Some(id);
        }
        at += 12 + extra_bytes(kind, count)?;
        id += 1;
    }
    None
}

/// Bytes behind `struct btf_type` of a kind with `count` members.
fn extra_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG
        3 => 12,                       // ARRAY
        4 | 5 | 15 | 19 => 12 * count, // STRUCT, UNION, DATASEC, ENUM64
        6 | 13 => 8 * count,           // ENUM, FUNC_PROTO
        2 | 7..=12 | 16 | 18 => 0,     // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One integer, one structure of one member, one typedef.
    fn blob() -> Vec<u8> {
        let types: Vec<u32> = vec![
            1,
            1 << 24,
            4,
            0, // INT "int" and its encoding
            5,
            4 << 24 | 1,
            4,
            1,
            1,
            0, // STRUCT with a member
            5,
            8 << 24,
            1, // TYPEDEF "btf_trace_x"
        ];
        let strings = b"\0int\0btf_trace_x\0";
        let bytes = types.len() as u32 * 4;
        let header = [0x0001_eb9f, 24, 0, bytes, bytes, strings.len() as u32];
        let words = header.into_iter().chain(types).flat_map(u32::to_le_bytes);
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn a_typedef_is_found_by_its_whole_name() {
        assert_eq!(typedef(&blob(), "btf_trace_x"), Some(3));
        assert_eq!(typedef(&blob(), "btf_trace"), None);
        assert_eq!(typedef(&blob(), "int"), None);
    }

    #[test]
    fn a_blob_that_is_cut_off_gives_nothing() {
        let blob = blob();
        for length in 0..blob.len() - 12 {
            assert_eq!(typedef(&blob[..length], "btf_trace_x"), None, "{length}");
        }
    }
}
