//! The numbers of the protocol, named as in its specification
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>).

/// The first bytes of a server.
pub(crate) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// The start of the newstyle greeting, and of every option.
pub(crate) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// The start of every reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, of server and client alike.
pub(crate) const FIXED_NEWSTYLE: u16 = 1;
pub(crate) const NO_ZEROES: u16 = 2;

/// The zeros that end the reply to [`OPT_EXPORT_NAME`], in bytes, unless both
/// said [`NO_ZEROES`].
pub(crate) const OLD_ZEROES: usize = 124;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;
/// Set in every reply that is an error.
pub(crate) const REP_ERROR: u32 = 1 << 31;
pub(crate) const REP_ERR_UNSUP: u32 = REP_ERROR | 1;
pub(crate) const REP_ERR_INVALID: u32 = REP_ERROR | 3;
pub(crate) const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;
pub(crate) const REP_ERR_TOO_BIG: u32 = REP_ERROR | 9;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_NAME: u16 = 1;
pub(crate) const INFO_DESCRIPTION: u16 = 2;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags: what an export is and takes.
pub(crate) const HAS_FLAGS: u16 = 1;
pub(crate) const READ_ONLY: u16 = 1 << 1;
pub(crate) const SEND_DF: u16 = 1 << 7;
pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;

pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISC: u16 = 2;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;
pub(crate) const CMD_BLOCK_STATUS: u16 = 7;
pub(crate) const CMD_RESIZE: u16 = 8;

/// Command flag: answer a read in one chunk.
pub(crate) const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag: tell one extent.
pub(crate) const CMD_FLAG_REQ_ONE: u16 = 1 << 3;

/// The flag of a reply's last chunk.
pub(crate) const CHUNK_DONE: u16 = 1;
pub(crate) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_DATA: u16 = 1;
pub(crate) const CHUNK_HOLE: u16 = 2;
pub(crate) const CHUNK_STATUS: u16 = 5;
/// Set in every kind of chunk that is an error.
pub(crate) const CHUNK_IS_ERROR: u16 = 1 << 15;
pub(crate) const CHUNK_ERROR: u16 = CHUNK_IS_ERROR | 1;
pub(crate) const CHUNK_ERROR_OFFSET: u16 = CHUNK_IS_ERROR | 2;

/// The meta context that tells holes.
pub(crate) const BASE_ALLOCATION: &str = "base:allocation";
/// Of `base:allocation`: nothing is allocated here.
pub(crate) const STATE_HOLE: u32 = 1;
/// Of `base:allocation`: this reads as zeros.
pub(crate) const STATE_ZERO: u32 = 2;

/// The longest string that the protocol allows, in bytes.
pub(crate) const LONGEST_STRING: usize = 4096;

/// The longest read or write that every peer may count on, in bytes.
pub(crate) const LONGEST_REQUEST: u32 = 32 << 20;
