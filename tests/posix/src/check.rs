//! What cases say: one line when it does not hold.

use std::fmt::Debug;
use std::io;

use rustix::io::Errno;

/// Outcome of a case.
pub(crate) type Outcome = Result<(), String>;

/// It must succeed.
pub(crate) fn ok<T, E: Into<io::Error>>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {}", error.into()))
}

/// It must fail with one of these.
pub(crate) fn fails<T, E: Into<io::Error>>(what: &str, result: Result<T, E>, with: &[Errno]) -> Outcome {
    match result {
        Ok(_) => Err(format!("{what}: succeeded, and should fail with {with:?}")),
        Err(error) => {
            let error: io::Error = error.into();
            let code = error.raw_os_error();
            if with.iter().any(|errno| Some(errno.raw_os_error()) == code) {
                Ok(())
            } else {
                Err(format!("{what}: {error}, and should fail with {with:?}"))
            }
        }
    }
}

/// Both must be the same.
pub(crate) fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected {
        Ok(())
    } else {
        let show = |value: &T| {
            let text = format!("{value:?}");
            if text.len() > 120 {
                format!(
                    "{}… ({} long)",
                    text.chars().take(100).collect::<String>(),
                    text.len()
                )
            } else {
                text
            }
        };
        Err(format!(
            "{what}: {} and should be {}",
            show(&found),
            show(&expected)
        ))
    }
}

/// It must be so.
pub(crate) fn holds(what: &str, so: bool) -> Outcome {
    if so {
        Ok(())
    } else {
        Err(format!("{what}: not so"))
    }
}
