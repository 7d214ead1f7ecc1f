//! Which word of a command is its first key, and what is told of it.
//!
//! By the tables of Redis 7.0's `COMMAND`; a command that is not here is taken to have no key. So what follows `AUTH`, names of channels,
//! patterns and scripts are never looked at.

/// The place of the first key behind the command's name, sub-commands counted.
pub(super) fn place(name: &str) -> Option<u64> {
    if FIRST.binary_search(&name).is_ok() {
        return Some(1);
    }
    SECOND.binary_search(&name).is_ok().then_some(2)
}

/// A digest of a key's length and its first bytes (FNV-1a): equal keys have equal ones. The same for every agent, so no secret.
pub(super) fn digest(kept: &[u8], length: u64) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    length.to_le_bytes().iter().chain(kept).fold(0xcbf2_9ce4_8422_2325, mix)
}

#[rustfmt::skip]
const FIRST: &[&str] = &[
    "APPEND", "BITCOUNT", "BITFIELD", "BITFIELD_RO", "BITPOS", "BLMOVE", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZPOPMAX", "BZPOPMIN",
    "COPY", "DECR", "DECRBY", "DEL", "DUMP", "EXISTS", "EXPIRE", "EXPIREAT", "EXPIRETIME", "GEOADD", "GEODIST", "GEOHASH",
    "GEOPOS", "GEORADIUS", "GEORADIUSBYMEMBER", "GEORADIUSBYMEMBER_RO", "GEORADIUS_RO", "GEOSEARCH", "GEOSEARCHSTORE", "GET",
    "GETBIT", "GETDEL", "GETEX", "GETRANGE", "GETSET", "HDEL", "HEXISTS", "HEXPIRE", "HEXPIREAT", "HEXPIRETIME", "HGET", "HGETALL",
    "HGETDEL", "HGETEX", "HINCRBY", "HINCRBYFLOAT", "HKEYS", "HLEN", "HMGET", "HMSET", "HPERSIST", "HPEXPIRE", "HPEXPIREAT",
    "HPEXPIRETIME", "HPTTL", "HRANDFIELD", "HSCAN", "HSET", "HSETEX", "HSETNX", "HSTRLEN", "HTTL", "HVALS", "INCR", "INCRBY",
    "INCRBYFLOAT", "LCS", "LINDEX", "LINSERT", "LLEN", "LMOVE", "LPOP", "LPOS", "LPUSH", "LPUSHX", "LRANGE", "LREM", "LSET",
    "LTRIM", "MGET", "MOVE", "MSET", "MSETNX", "PERSIST", "PEXPIRE", "PEXPIREAT", "PEXPIRETIME", "PFADD", "PFCOUNT", "PFMERGE",
    "PSETEX", "PTTL", "RENAME", "RENAMENX", "RESTORE", "RPOP", "RPOPLPUSH", "RPUSH", "RPUSHX", "SADD", "SCARD", "SDIFF",
    "SDIFFSTORE", "SET", "SETBIT", "SETEX", "SETNX", "SETRANGE", "SINTER", "SINTERSTORE", "SISMEMBER", "SMEMBERS", "SMISMEMBER",
    "SMOVE", "SORT", "SORT_RO", "SPOP", "SRANDMEMBER", "SREM", "SSCAN", "STRLEN", "SUBSTR", "SUNION", "SUNIONSTORE", "TOUCH", "TTL",
    "TYPE", "UNLINK", "WATCH", "XACK", "XADD", "XAUTOCLAIM", "XCLAIM", "XDEL", "XLEN", "XPENDING", "XRANGE", "XREVRANGE", "XTRIM",
    "ZADD", "ZCARD", "ZCOUNT", "ZDIFFSTORE", "ZINCRBY", "ZINTERSTORE", "ZLEXCOUNT", "ZMSCORE", "ZPOPMAX", "ZPOPMIN",
    "ZRANDMEMBER", "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZRANGESTORE", "ZRANK", "ZREM", "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYLEX", "ZREVRANGEBYSCORE", "ZREVRANK", "ZSCAN", "ZSCORE",
    "ZUNIONSTORE",
];

/// Behind a sub-command, an operation, or a number of keys.
#[rustfmt::skip]
const SECOND: &[&str] = &[
    "BITOP", "LMPOP", "MEMORY USAGE", "OBJECT ENCODING", "OBJECT FREQ", "OBJECT IDLETIME", "OBJECT REFCOUNT", "SINTERCARD",
    "XGROUP CREATE", "XGROUP CREATECONSUMER", "XGROUP DELCONSUMER", "XGROUP DESTROY", "XGROUP SETID", "XINFO CONSUMERS",
    "XINFO GROUPS", "XINFO STREAM", "ZDIFF", "ZINTER", "ZINTERCARD", "ZMPOP", "ZUNION",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_nothing_secret_is_a_key() {
        assert!(FIRST.is_sorted() && SECOND.is_sorted());
        let check = |name, expected| assert_eq!(place(name), expected, "{name}");
        check("GET", Some(1));
        check("OBJECT FREQ", Some(2));
        check("ZUNION", Some(2));
        for none in [
            "AUTH",
            "HELLO",
            "EVAL",
            "PUBLISH",
            "SUBSCRIBE",
            "KEYS",
            "SCAN",
            "ECHO",
            "CONFIG SET",
            "ACL SETUSER",
            "MIGRATE",
            "_OTHER",
        ] {
            check(none, None);
        }
    }

    #[test]
    fn equal_keys_have_equal_digests() {
        assert_eq!(digest(b"order:1", 7), digest(b"order:1", 7));
        assert_ne!(digest(b"order:1", 7), digest(b"order:2", 7));
        assert_ne!(digest(&[b'x'; 64], 64), digest(&[b'x'; 64], 65));
    }
}
