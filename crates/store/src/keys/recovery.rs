//! Recovery keys: made by us, written on paper, typed in on a bad day.
//!
//! 160 random bits and 20 bits of checksum, in Crockford's base 32: 36
//! characters in six groups. Small letters, spaces, dashes, and the letters O,
//! I and L for 0, 1 and 1 are taken as they are meant.

use std::fmt;
use std::str::FromStr;

use backstop_core::{ChunkDigest, Error, Result};
use zeroize::Zeroizing;

use crate::seal;

/// The size of a key, in bytes.
const LENGTH: usize = 20;

/// How many characters tell the key, and how many check them.
const DATA: usize = 32;
const CHECK: usize = 4;

/// Characters that stand together.
const GROUP: usize = 6;

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A key for the day on which everything else is lost: print it, and lock it
/// away.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey(Zeroizing<[u8; LENGTH]>);

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

/// The five bits from `at` on.
fn bits(bytes: &[u8], at: usize) -> u8 {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    (at..at + 5).fold(0, |value, at| value << 1 | bit(at))
}

/// The characters, as numbers, that check a key.
fn check(key: &[u8; LENGTH]) -> [u8; CHECK] {
    let mut all = Zeroizing::new([0; 15 + LENGTH]);
    all[..15].copy_from_slice(b"backstop paper ");
    all[15..].copy_from_slice(key);
    let digest = ChunkDigest::of(&*all);
    std::array::from_fn(|place| bits(digest.as_bytes(), place * 5))
}

impl RecoveryKey {
    /// A new one, of 160 bits from the operating system's generator.
    ///
    /// # Errors
    /// [`Unavailable`](backstop_core::ErrorKind::Unavailable) if that gives none.
    pub fn generate() -> Result<Self> {
        Ok(Self(Zeroizing::new(seal::random()?)))
    }

    /// What to print: six groups of six characters.
    pub fn to_text(&self) -> Zeroizing<String> {
        let data = (0..DATA).map(|place| bits(&*self.0, place * 5));
        let all = data.chain(check(&self.0)).enumerate();
        let mut text = Zeroizing::new(String::with_capacity(DATA + CHECK + DATA / GROUP));
        for (place, value) in all {
            if place > 0 && place % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(DIGITS[usize::from(value)]));
        }
        text
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &*self.0
    }
}

impl FromStr for RecoveryKey {
    type Err = Error;

    /// The key that was typed in.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if it can't be
    /// one: told by its length, its characters or its checksum, without any
    /// vault.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: String| {
            Err(Error::invalid_input(format!(
                "the recovery key is mistyped: {why}; compare it with the paper"
            )))
        };
        let mut values = Zeroizing::new(Vec::with_capacity(DATA + CHECK));
        for letter in text.chars() {
            let letter = match letter.to_ascii_uppercase() {
                '-' => continue,
                space if space.is_whitespace() => continue,
                'O' => '0',
                'I' | 'L' => '1',
                letter => letter,
            };
            let value = DIGITS.iter().position(|digit| char::from(*digit) == letter);
            let Some(value) = value.and_then(|value| u8::try_from(value).ok()) else {
                return refuse(format!("it has a character {letter:?}"));
            };
            if values.len() == DATA + CHECK {
                return refuse(format!("it has more than {} characters", DATA + CHECK));
            }
            values.push(value);
        }
        if values.len() != DATA + CHECK {
            let (has, all) = (values.len(), DATA + CHECK);
            return refuse(format!("it has {has} characters instead of {all}"));
        }
        let mut key = Zeroizing::new([0u8; LENGTH]);
        for (place, value) in values[..DATA].iter().enumerate() {
            for bit in 0..5 {
                let at = place * 5 + bit;
                key[at / 8] |= (value >> (4 - bit) & 1) << (7 - at % 8);
            }
        }
        if values[DATA..] != check(&key) {
            return refuse("its checksum does not fit".to_owned());
        }
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_however_it_is_typed(key: [u8; LENGTH], style: u64) {
            let key = RecoveryKey(Zeroizing::new(key));
            let text = key.to_text();
            prop_assert_eq!(text.len(), 41);
            prop_assert_eq!(&text.parse::<RecoveryKey>().unwrap(), &key);
            let mut random = fastrand::Rng::with_seed(style);
            let mut typed = String::new();
            for letter in text.chars() {
                let letter = match letter {
                    '0' if random.bool() => 'o',
                    '1' if random.bool() => ['i', 'L', 'l'][random.usize(..3)],
                    '-' => [' ', '-', '\t'][random.usize(..3)],
                    letter if random.bool() => letter.to_ascii_lowercase(),
                    letter => letter,
                };
                typed.push(letter);
                if random.u8(..10) == 0 {
                    typed.push(' ');
                }
            }
            prop_assert_eq!(&typed.parse::<RecoveryKey>().unwrap(), &key);
        }

        #[test]
        fn one_wrong_character_is_told(key: [u8; LENGTH], at in 0usize..36, to in 1usize..32) {
            let text = RecoveryKey(Zeroizing::new(key)).to_text().replace('-', "");
            let mut typed = text.clone().into_bytes();
            let value = DIGITS.iter().position(|digit| *digit == typed[at]).unwrap();
            typed[at] = DIGITS[(value + to) % 32];
            let typed = String::from_utf8(typed).unwrap();
            // One in a million may be missed: these are not.
            if at < DATA {
                prop_assume!(check(&key_of(&typed)) != check(&key_of(&text)));
            }
            let error = typed.parse::<RecoveryKey>().unwrap_err();
            prop_assert!(error.to_string().contains("checksum"), "{error}");
        }
    }

    fn key_of(text: &str) -> [u8; LENGTH] {
        let mut key = [0; LENGTH];
        for (place, letter) in text.bytes().take(DATA).enumerate() {
            let value = DIGITS.iter().position(|digit| *digit == letter).unwrap();
            for bit in 0..5 {
                let at = place * 5 + bit;
                key[at / 8] |= (u8::try_from(value).unwrap() >> (4 - bit) & 1) << (7 - at % 8);
            }
        }
        key
    }

    #[test]
    fn what_is_no_key_is_told_why() {
        let text = RecoveryKey(Zeroizing::new([7; LENGTH])).to_text();
        assert_eq!(*text, "0W3GE1-R70W3G-E1R70W-3GE1R7-0W3GE1-R71GYK");
        let told = |text: &str| text.parse::<RecoveryKey>().unwrap_err().to_string();
        assert!(told(&text[1..]).contains("35 characters"));
        assert!(told("").contains("0 characters"));
        assert!(told(&format!("{}0", &*text)).contains("more than 36"));
        assert!(told(&text.replace('0', "ü")).contains("'ü'"));
        assert!(told(&text.replace("W3", "3W")).contains("checksum"));
    }
}
