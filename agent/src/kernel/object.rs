//! The kernel programs, embedded at build time.

/// The object's bytes, aligned as its parser wants them.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/spantap.bpf.o")));

/// The object, or `None` if the agent was built without it.
pub fn embedded() -> Option<&'static [u8]> {
    let bytes = &OBJECT.0;
    (!bytes.is_empty()).then_some(bytes)
}
