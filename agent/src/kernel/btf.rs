//! Field offsets on the running kernel, from its own type information.
//!
//! In: the bytes of `/sys/kernel/btf/vmlinux`. Out: offsets by structure and field path. Called once by
//! [`super::load`]. A small reader of our own, because aya's look-ups are private and the maintained crate's licence
//! (LGPL) does not fit a static binary. Format: Documentation/bpf/btf.rst of the kernel. Truncated or foreign bytes give
//! an error, never a panic.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// Modifiers (typedef, const, volatile, …) nest only a few levels; more means a damaged file.
const NESTING_MAX: usize = 32;

/// What is wrong with the type information.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel has none.
    #[error("cannot read {path}: {source}; the kernel needs CONFIG_DEBUG_INFO_BTF=y")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not BTF, or cut short.
    #[error("{path} is not valid BTF: {what} at byte {at}")]
    Malformed {
        /// The file.
        path: String,
        /// What was expected.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A field that the kernel programs need is not there.
    #[error("this kernel's {structure} has no field {field}; the kernel is not supported by this version")]
    MissingField {
        /// Structure.
        structure: &'static str,
        /// Field path.
        field: &'static str,
    },
}

/// A member of a structure.
#[derive(Clone, Copy)]
struct Member {
    /// Where it begins, in bits.
    bits: u32,
    /// Width if it is a bit field, else 0.
    width: u32,
    /// Its type.
    kind: u32,
}

/// Parsed type information.
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Byte offset of each type's descriptor, by type id; id 0 is `void`.
    types: Vec<usize>,
    /// Structures, unions, functions and typedefs by name.
    names: HashMap<String, Vec<u32>>,
}

mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

impl Btf {
    /// Reads the running kernel's.
    pub fn from_running_kernel() -> Result<Self, BtfError> {
        let path = "/sys/kernel/btf/vmlinux";
        let data = std::fs::read(path).map_err(|source| BtfError::Read { path: path.into(), source })?;
        Self::parse(data).map_err(|(what, at)| BtfError::Malformed { path: path.into(), what, at })
    }

    /// Parses `data`; the error is what was expected and where.
    pub fn parse(data: Vec<u8>) -> Result<Self, (&'static str, usize)> {
        let magic = data.get(..2).ok_or(("a header", 0))?;
        if magic != MAGIC.to_ne_bytes() {
            return Err(("the magic number", 0));
        }
        let field = |at| word(&data, at).map(|value| value as usize).ok_or(("a header", at));
        let header = field(4)?;
        let (first, length, strings) = (header + field(8)?, field(12)?, header + field(16)?);
        let end = first.checked_add(length).filter(|end| *end <= data.len()).ok_or(("the type section", first))?;
        let mut btf = Self { strings, types: vec![0], names: HashMap::new(), data };
        let mut at = first;
        while at < end {
            let size = btf.descriptor_bytes(at).ok_or(("a type descriptor", at))?;
            btf.types.push(at);
            at = at.checked_add(size).ok_or(("a type descriptor", at))?;
        }
        btf.index_names();
        Ok(btf)
    }

    fn index_names(&mut self) {
        for id in 1..self.types.len() as u32 {
            if !matches!(self.kind(id), Some(kind::STRUCT | kind::UNION | kind::FUNC | kind::TYPEDEF)) {
                continue;
            }
            if let Some(name) = self.name(id).filter(|name| !name.is_empty()) {
                self.names.entry(name).or_default().push(id);
            }
        }
    }

    fn descriptor_bytes(&self, at: usize) -> Option<usize> {
        let info = word(&self.data, at + 4)?;
        let count = (info & 0xffff) as usize;
        let extra = match (info >> 24) & 0x1f {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
            kind::ENUM | kind::FUNC_PROTO => 8 * count,
            _ => 0,
        };
        Some(TYPE_BYTES + extra)
    }

    fn at(&self, id: u32) -> Option<usize> {
        if id == 0 { None } else { self.types.get(id as usize).copied() }
    }

    fn kind(&self, id: u32) -> Option<u32> {
        Some((word(&self.data, self.at(id)? + 4)? >> 24) & 0x1f)
    }

    fn name(&self, id: u32) -> Option<String> {
        self.string(word(&self.data, self.at(id)?)?)
    }

    fn string(&self, offset: u32) -> Option<String> {
        let bytes = self.data.get(self.strings.checked_add(offset as usize)?..)?;
        let length = bytes.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..NESTING_MAX {
            match self.kind(id)? {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = word(&self.data, self.at(id)? + 8)?;
                }
                _ => return Some(id),
            }
        }
        None
    }

    /// A member, also inside anonymous members.
    fn member(&self, id: u32, wanted: &str, depth: usize) -> Option<Member> {
        let id = self.resolve(id)?;
        if depth > NESTING_MAX || !matches!(self.kind(id)?, kind::STRUCT | kind::UNION) {
            return None;
        }
        let at = self.at(id)?;
        let info = word(&self.data, at + 4)?;
        let has_bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let member = at + TYPE_BYTES + index * MEMBER_BYTES;
            let name = self.string(word(&self.data, member)?)?;
            let kind = word(&self.data, member + 4)?;
            let raw = word(&self.data, member + 8)?;
            let (bits, width) = if has_bitfields { (raw & 0x00ff_ffff, raw >> 24) } else { (raw, 0) };
            if name == wanted {
                return Some(Member { bits, width, kind });
            }
            if name.is_empty()
                && let Some(inner) = self.member(kind, wanted, depth + 1)
            {
                return Some(Member { bits: bits.checked_add(inner.bits)?, ..inner });
            }
        }
        None
    }

    /// Byte offset of the field `path` (members separated by dots; pointers are not followed) in `structure`.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        self.field(structure, path).map(|field| field.bits / 8)
    }

    fn field(&self, structure: &str, path: &str) -> Option<Member> {
        self.names.get(structure)?.iter().find_map(|id| {
            let mut field = Member { bits: 0, width: 0, kind: *id };
            for part in path.split('.') {
                let inner = self.member(field.kind, part, 0)?;
                field = Member { bits: field.bits.checked_add(inner.bits)?, ..inner };
            }
            Some(field)
        })
    }

    /// Byte offset of a bit field, and where it lies in that byte: shift and 256 times its width. A whole byte, which
    /// it is on other kernels, has width 8.
    fn bit_field(&self, structure: &str, path: &str) -> Option<(u32, u32)> {
        let field = self.field(structure, path)?;
        let (shift, width) = (field.bits % 8, if field.width == 0 { 8 } else { field.width });
        (shift + width <= 8).then_some((field.bits / 8, shift | width << 8))
    }

    /// Whether the kernel has this function with type information (fentry can attach to it).
    pub fn has_function(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|ids| ids.iter().any(|id| self.kind(*id) == Some(kind::FUNC)))
    }

    /// Whether the kernel has this tracepoint.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.names.contains_key(&format!("btf_trace_{name}"))
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Where each of the kernel programs' globals comes from: global, structure, alternatives of the field's path.
const FIELDS: &[(&str, &str, &[&str])] = &[
    ("TASK_FILES", "task_struct", &["files"]),
    ("TASK_PID", "task_struct", &["pid"]),
    ("TASK_TGID", "task_struct", &["tgid"]),
    ("TASK_MM", "task_struct", &["mm"]),
    ("TASK_PARENT", "task_struct", &["real_parent"]),
    ("TASK_SIGNAL", "task_struct", &["signal"]),
    ("SIGNAL_LIVE", "signal_struct", &["live.counter"]),
    ("FILES_FDT", "files_struct", &["fdt"]),
    ("FDT_FD", "fdtable", &["fd"]),
    ("FDT_MAX_FDS", "fdtable", &["max_fds"]),
    ("FILE_PRIVATE", "file", &["private_data"]),
    ("FILE_INODE", "file", &["f_inode"]),
    ("FILE_OPERATIONS", "file", &["f_op"]),
    ("INODE_MODE", "inode", &["i_mode"]),
    ("INODE_NUMBER", "inode", &["i_ino"]),
    ("INODE_SUPER", "inode", &["i_sb"]),
    ("SUPER_DEVICE", "super_block", &["s_dev"]),
    ("MM_EXE_FILE", "mm_struct", &["exe_file"]),
    ("BPRM_FILENAME", "linux_binprm", &["filename"]),
    ("SOCKET_SK", "socket", &["sk"]),
    ("SOCKET_FILE", "socket", &["file"]),
    ("SK_FAMILY", "sock_common", &["skc_family"]),
    ("SK_DPORT", "sock_common", &["skc_dport"]),
    ("SK_NUM", "sock_common", &["skc_num"]),
    ("SK_DADDR", "sock_common", &["skc_daddr"]),
    ("SK_RCV_SADDR", "sock_common", &["skc_rcv_saddr"]),
    ("SK_V6_DADDR", "sock_common", &["skc_v6_daddr"]),
    ("SK_V6_RCV_SADDR", "sock_common", &["skc_v6_rcv_saddr"]),
    ("SK_NET", "sock_common", &["skc_net.net"]),
    ("NET_INUM", "net", &["ns.inum"]),
    ("SK_PROTOCOL", "sock", &["sk_protocol"]),
    ("SK_STATE", "sock_common", &["skc_state"]),
    ("SK_ERR", "sock", &["sk_err"]),
    ("SK_PROT", "sock_common", &["skc_prot"]),
    ("PROTO_SENDMSG", "proto", &["sendmsg"]),
    ("PROTO_RECVMSG", "proto", &["recvmsg"]),
    ("TCP_RCV_NXT", "tcp_sock", &["rcv_nxt"]),
    ("TCP_COPIED_SEQ", "tcp_sock", &["copied_seq"]),
    ("TCP_WRITE_SEQ", "tcp_sock", &["write_seq"]),
    ("TCP_SND_UNA", "tcp_sock", &["snd_una"]),
    ("TCP_SND_NXT", "tcp_sock", &["snd_nxt"]),
    ("TCP_BYTES_RECEIVED", "tcp_sock", &["bytes_received"]),
    ("TCP_BYTES_ACKED", "tcp_sock", &["bytes_acked"]),
    ("TCP_BYTES_SENT", "tcp_sock", &["bytes_sent"]),
    ("TCP_BYTES_RETRANS", "tcp_sock", &["bytes_retrans"]),
    ("TCP_SRTT_US", "tcp_sock", &["srtt_us"]),
    // struct minmax holds three samples {u32 time; u32 value}; the first is the minimum.
    ("TCP_RTT_MIN", "tcp_sock", &["rtt_min"]),
    ("TCP_SND_CWND", "tcp_sock", &["snd_cwnd"]),
    ("TCP_TOTAL_RETRANS", "tcp_sock", &["total_retrans"]),
    ("SK_ACK_BACKLOG", "sock", &["sk_ack_backlog"]),
    ("SK_MAX_ACK_BACKLOG", "sock", &["sk_max_ack_backlog"]),
    ("SKB_SK", "sk_buff", &["sk"]),
    ("SKB_CB", "sk_buff", &["cb"]),
    ("SKB_HEAD", "sk_buff", &["head"]),
    ("SKB_DATA", "sk_buff", &["data"]),
    ("SKB_LEN", "sk_buff", &["len"]),
    ("SKB_TRANSPORT_HEADER", "sk_buff", &["transport_header"]),
    ("CB_SEQ", "tcp_skb_cb", &["seq"]),
    ("CB_END_SEQ", "tcp_skb_cb", &["end_seq"]),
    ("CB_ACK_SEQ", "tcp_skb_cb", &["ack_seq"]),
    ("CB_TCP_FLAGS", "tcp_skb_cb", &["tcp_flags"]),
    ("MSG_COUNT", "msghdr", &["msg_iter.count"]),
    ("SK_TYPE", "sock", &["sk_type"]),
    ("SK_SOCKET", "sock", &["sk_socket"]),
    ("SK_RECEIVE_QUEUE", "sock", &["sk_receive_queue.qlen"]),
    ("SOCKET_ALLOC_INODE", "socket_alloc", &["vfs_inode"]),
    ("UDP_READER_QUEUE", "udp_sock", &["reader_queue.qlen"]),
];

/// As [`FIELDS`], of what some kernels do not have or have under another name; without it less is known.
const OPTIONAL_FIELDS: &[(&str, &str, &[&str])] = &[
    // Linux 5.10 and all since, on x86-64.
    ("TASK_FSBASE", "task_struct", &["thread.fsbase"]),
    // CONFIG_FAIR_GROUP_SCHED
    ("TASK_CFS_RQ", "task_struct", &["se.cfs_rq"]),
    // CONFIG_CFS_BANDWIDTH; Linux 6.7, 5.19, before. The older ones are in scaled time, which equals real time on most
    // machines.
    (
        "CFS_THROTTLED_NS",
        "cfs_rq",
        &["throttled_clock_self_time", "throttled_clock_pelt_time", "throttled_clock_task_time"],
    ),
    ("SK_OWNED", "sock", &["sk_lock.owned"]),
    ("SK_PACING_RATE", "sock", &["sk_pacing_rate"]),
    ("SK_MAX_PACING_RATE", "sock", &["sk_max_pacing_rate"]),
    ("SK_PACING_STATUS", "sock", &["sk_pacing_status"]),
    ("TCP_MDEV_US", "tcp_sock", &["mdev_us"]),
    ("TCP_RCV_OOOPACK", "tcp_sock", &["rcv_ooopack"]),
    ("TCP_SND_WND", "tcp_sock", &["snd_wnd"]),
    ("TCP_CHRONO_STAT", "tcp_sock", &["chrono_stat"]),
    ("TCP_CHRONO_START", "tcp_sock", &["chrono_start"]),
    ("ICSK_PENDING", "inet_connection_sock", &["icsk_pending"]),
    ("ICSK_ULP_OPS", "inet_connection_sock", &["icsk_ulp_ops"]),
    ("ULP_NAME", "tcp_ulp_ops", &["name"]),
    // Absent where unix sockets are a module.
    ("UNIX_ADDRESS", "unix_sock", &["addr"]),
    ("UNIX_PEER", "unix_sock", &["peer"]),
    ("UNIX_ADDRESS_LENGTH", "unix_address", &["len"]),
    ("UNIX_ADDRESS_NAME", "unix_address", &["name"]),
];

/// Likewise, narrower than a byte: global of the byte's offset, global of the place within it, and the field.
const BIT_FIELDS: &[(&str, &str, &str, &str)] = &[
    ("SK_SHUTDOWN", "SK_SHUTDOWN_BITS", "sock", "sk_shutdown"),
    ("TCP_CHRONO_TYPE", "TCP_CHRONO_TYPE_BITS", "tcp_sock", "chrono_type"),
    ("TCP_CWND_LIMITED", "TCP_CWND_LIMITED_BITS", "tcp_sock", "is_cwnd_limited"),
    ("ICSK_CA_STATE", "ICSK_CA_STATE_BITS", "inet_connection_sock", "icsk_ca_state"),
];

/// What the kernel programs take for a field that is not there.
const ABSENT: u32 = u32::MAX;

/// Offset of the value within `struct minmax_sample`.
const MINMAX_VALUE: u32 = 4;

/// Every global's value on this kernel.
pub fn offsets(btf: &Btf) -> Result<Vec<(&'static str, u32)>, BtfError> {
    let mut values = Vec::with_capacity(FIELDS.len() + OPTIONAL_FIELDS.len() + 2 * BIT_FIELDS.len());
    for (global, structure, paths) in FIELDS {
        let found = paths.iter().find_map(|path| btf.offset(structure, path));
        let offset = found.ok_or(BtfError::MissingField { structure, field: paths[0] })?;
        values.push((*global, if *global == "TCP_RTT_MIN" { offset + MINMAX_VALUE } else { offset }));
    }
    for (global, structure, paths) in OPTIONAL_FIELDS {
        let found = paths.iter().find_map(|path| btf.offset(structure, path));
        values.push((*global, found.unwrap_or(ABSENT)));
    }
    for (byte, place, structure, path) in BIT_FIELDS {
        let (offset, bits) = btf.bit_field(structure, path).unwrap_or((ABSENT, 0));
        values.extend([(*byte, offset), (*place, bits)]);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct inner { int y; }; struct outer { int a; struct { int b; struct inner i; }; }`, and a function `f`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0i\0y\0inner\0f\0";
        let name = |text: &str| {
            let needle = [b"\0", text.as_bytes(), b"\0"].concat();
            strings.windows(needle.len()).position(|window| window == needle).unwrap() as u32 + 1
        };
        let structure = |name: u32, size: u32, members: &[(u32, u32, u32)]| {
            let mut words = vec![name, kind::STRUCT << 24 | members.len() as u32, size];
            members.iter().for_each(|(n, t, bits)| words.extend([*n, *t, *bits]));
            words
        };
        let types: Vec<u32> = [
            vec![name("int"), kind::INT << 24, 4, 32],
            structure(name("inner"), 4, &[(name("y"), 1, 0)]),
            structure(0, 8, &[(name("b"), 1, 0), (name("i"), 2, 32)]),
            structure(name("outer"), 12, &[(name("a"), 1, 0), (0, 3, 32)]),
            vec![name("f"), kind::FUNC << 24, 1],
        ]
        .concat();
        let length = types.len() as u32 * 4;
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let mut bytes: Vec<u8> = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn finds_members_inside_anonymous_ones_and_paths() {
        let btf = Btf::parse(sample()).ok().unwrap();
        let found = ["a", "b", "i", "i.y", "z"].map(|path| btf.offset("outer", path));
        assert_eq!(found, [Some(0), Some(4), Some(8), Some(8), None]);
        assert_eq!(btf.offset("nothing", "a"), None);
    }

    #[test]
    fn finds_bit_fields_and_whole_bytes() {
        let strings = b"\0u8\0s\0low\0high\0whole\0";
        let name = |at: &str| strings.windows(at.len()).position(|window| window == at.as_bytes()).unwrap() as u32;
        let member = |text: &str, bits: u32, width: u32| [name(text), 1, width << 24 | bits];
        let members = [member("low", 8, 5), member("high", 13, 1), member("whole", 16, 0)].concat();
        let header = [name("u8\0"), kind::INT << 24, 1, 8, name("s\0low"), 1 << 31 | kind::STRUCT << 24 | 3, 3];
        let types: Vec<u32> = header.into_iter().chain(members).collect();
        let length = types.len() as u32 * 4;
        let words = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let mut bytes: Vec<u8> = words.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(strings);
        let btf = Btf::parse(bytes).ok().unwrap();
        let found = ["low", "high", "whole", "other"].map(|field| btf.bit_field("s", field));
        assert_eq!(found, [Some((1, 5 << 8)), Some((1, 5 | 1 << 8)), Some((2, 8 << 8)), None]);
    }

    #[test]
    fn tells_functions_from_structures() {
        let btf = Btf::parse(sample()).ok().unwrap();
        assert!(btf.has_function("f"));
        assert!(!btf.has_function("outer"));
    }

    #[test]
    fn names_the_missing_field() {
        let error = offsets(&Btf::parse(sample()).ok().unwrap()).unwrap_err();
        assert!(error.to_string().contains("task_struct has no field files"), "{error}");
    }

    #[test]
    fn any_truncation_or_flipped_byte_is_an_error_or_a_smaller_answer_but_never_a_panic() {
        let whole = sample();
        for end in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..end].to_vec()) {
                let _ = btf.offset("outer", "i.y");
            }
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                if let Ok(btf) = Btf::parse(damaged) {
                    let _ = btf.offset("outer", "i.y");
                }
            }
        }
    }
}
