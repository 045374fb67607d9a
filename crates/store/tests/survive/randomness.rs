//! Randomness that replays. In a thread that asks for it, all that is asked of
//! the operating system's generator follows a seed: names of packs, ids, keys,
//! and also the order in which hash maps are walked. Nothing of the library
//! takes part: this program answers the C library's `getrandom` itself.

use std::cell::Cell;
use std::io::Read;

thread_local! {
    /// Where the thread's generator stands; none if it is the real one.
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The next number of SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

fn fill(bytes: &mut [u8]) -> std::io::Result<()> {
    let seeded = STATE.try_with(|state| {
        let mut now = state.get()?;
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&next(&mut now).to_le_bytes()[..part.len()]);
        }
        state.set(Some(now));
        Some(())
    });
    match seeded {
        Ok(Some(())) => Ok(()),
        _ => std::fs::File::open("/dev/urandom")?.read_exact(bytes),
    }
}

/// What the standard library and everything else here asks on Linux.
///
/// # Safety
/// As of the C library's function of this name: `length` bytes can be written
/// at `buffer`.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _: u32) -> isize {
    if length > 0 {
        // SAFETY: the caller says so; zeros first, since it need not be initialized.
        let bytes = unsafe {
            buffer.write_bytes(0, length);
            std::slice::from_raw_parts_mut(buffer, length)
        };
        if fill(bytes).is_err() {
            return -1;
        }
    }
    length.cast_signed()
}

/// Whether randomness can be made to replay here.
pub(crate) const REPLAYS: bool = cfg!(target_os = "linux");

/// Does work in a thread of its own in which randomness follows a seed; a panic
/// goes on in the caller's.
pub(crate) fn seeded<T: Send + 'static>(seed: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        STATE.set(Some(seed));
        work()
    });
    match thread.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn a_seed_repeats_what_is_random_and_nothing_else_does() {
    let draw = || {
        let order: std::collections::HashSet<u32> = (0..100).collect();
        let key = backstop_store::RecoveryKey::generate().unwrap();
        (
            order.into_iter().collect::<Vec<_>>(),
            key.to_text().to_string(),
        )
    };
    if REPLAYS {
        assert_eq!(seeded(1, draw), seeded(1, draw));
        assert_ne!(seeded(1, draw).1, seeded(2, draw).1);
        assert_ne!(seeded(1, draw).0, seeded(2, draw).0);
    }
    assert_ne!(draw().1, draw().1);
}
