//! Which board this is.
//!
//! A file that was deleted, or an etcd that was set up anew, is an empty board at the same address: to believe it would be to
//! believe that nobody holds anything. So a board gets a name at its first use, and whoever remembers another one knows that
//! this is not the board it knew. One that was restored from a backup has its old name, and an earlier revision.

use super::{Board, BoardError, BoardResult, Commit, Guard, Key, Txn, Value};

/// Where the name is kept.
const KEY: &str = "board/identity";

/// The longest name.
const LEN_MAX: usize = 128;

/// The name of this board. One that has none yet is given `proposal`, which nobody may have thought of before: a random
/// number of 128 bits, in text.
///
/// # Errors
/// As of [`Board::get`] and [`Board::commit`]; after [`BoardError::Unknown`], ask again.
pub async fn identity(board: &impl Board, proposal: &str) -> BoardResult<String> {
    let attempt = "read the board's name";
    let wrong = |why: String| BoardError::never(attempt, why);
    let key = Key::new(KEY).map_err(|error| wrong(error.to_string()))?;
    let value = Value::new(proposal).map_err(|error| wrong(error.to_string()))?;
    let entry = match board.get(&key).await? {
        Some(entry) => entry,
        None => match board
            .commit(&Txn::put_if(Guard::Absent(key), value, None))
            .await?
        {
            Commit::Done(_) => return Ok(proposal.to_owned()),
            // Somebody else was faster.
            Commit::Refused(refused) => {
                let now = refused.0.into_iter().find_map(|(_, entry)| entry);
                now.ok_or_else(|| BoardError::unavailable(attempt, "its name came and went"))?
            }
        },
    };
    match str::from_utf8(entry.value.as_bytes()) {
        Ok(name) if !name.is_empty() && name.len() <= LEN_MAX => Ok(name.to_owned()),
        Ok(_) | Err(_) => Err(wrong(format!("`{KEY}` holds no name"))),
    }
}
