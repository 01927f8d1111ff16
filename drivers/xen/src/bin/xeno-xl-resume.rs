//! Lets a suspended domain go on where it is: the one thing that `xl` (up to 4.20) cannot do.
//!
//! ```text
//! xeno-xl-resume DOMID            resume it
//! xeno-xl-resume DOMID FROM TO    rename it from FROM to TO first
//! ```
//!
//! A migration that ends badly can leave its domain suspended with nobody to resume it: `xl unpause` says "Invalid
//! argument" and exits 0. libxl has the call. Its library has another name in each release of Xen, and its handling of
//! child processes and threads does not go with a server's, so this is a program of its own that loads the library of
//! the Xen that runs. It decides nothing and looks at nothing: whoever runs it has found out that the domain is to go on
//! here, and looks again afterwards.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::process::ExitCode;

use libloading::Library;

/// `XTL_WARN` of xentoollog.h.
const WARN: c_int = 7;

/// Longest name of a domain that is passed on.
const NAME_MAX: usize = 255;

type CreateLogger = unsafe extern "C" fn(*mut c_void, c_int, c_uint) -> *mut c_void;
type ContextAlloc = unsafe extern "C" fn(*mut *mut c_void, c_int, c_uint, *mut c_void) -> c_int;
type ContextFree = unsafe extern "C" fn(*mut c_void) -> c_int;
type DomainRename = unsafe extern "C" fn(*mut c_void, u32, *const c_char, *const c_char) -> c_int;
type DomainResume = unsafe extern "C" fn(*mut c_void, u32, c_int, *const c_void) -> c_int;

struct Wanted {
    domid: u32,
    rename: Option<(CString, CString)>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(wanted) = read(&words) else {
        complain("usage: xeno-xl-resume DOMID [FROM TO]");
        return ExitCode::from(2);
    };
    match resume(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program for whoever runs it")]
fn complain(why: &str) {
    eprintln!("xeno-xl-resume: {why}");
}

/// Never domain 0, which nobody suspends.
fn read(words: &[String]) -> Option<Wanted> {
    let name = |word: &String| {
        CString::new(word.as_str())
            .ok()
            .filter(|name| (1..=NAME_MAX).contains(&name.as_bytes().len()))
    };
    let domid = |word: &String| word.parse().ok().filter(|domid| (1..0x7ff0).contains(domid));
    match words {
        [id] => Some(Wanted {
            domid: domid(id)?,
            rename: None,
        }),
        [id, from, to] => Some(Wanted {
            domid: domid(id)?,
            rename: Some((name(from)?, name(to)?)),
        }),
        _ => None,
    }
}

/// Names of libxl for the Xen that runs, the best first.
fn names() -> Vec<String> {
    let version = |part: &str| -> Option<u32> {
        std::fs::read_to_string(format!("/sys/hypervisor/version/{part}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let mut names = Vec::new();
    if let (Some(major), Some(minor)) = (version("major"), version("minor")) {
        names.push(format!("libxenlight.so.{major}.{minor}"));
    }
    // What a distribution that keeps only one calls it.
    names.push("libxenlight.so".to_owned());
    names
}

#[expect(
    unsafe_code,
    reason = "libxl is a C library, and this program is there so that nothing else has to call it"
)]
fn resume(wanted: &Wanted) -> Result<(), String> {
    // SAFETY: libraries of the running Xen, whose initialisers do nothing but set themselves up.
    let load = |name: &str| unsafe { Library::new(name) }.map_err(|error| format!("load {name}: {error}"));
    let mut problem = String::new();
    let xl = names()
        .iter()
        .find_map(|name| load(name).map_err(|error| problem = error).ok());
    let xl = xl.ok_or(problem)?;
    let log = load("libxentoollog.so.1")?;
    let this = libloading::os::unix::Library::this();
    let missing =
        |error: libloading::Error| format!("libxl is not the one that this was written for: {error}");
    // SAFETY: the types are those of libxl.h and xentoollog.h, the same from Xen 4.3 to 4.20; all pointers passed are valid for the calls,
    // none of which keeps one but the logger, which lives as long as the context; a null `ao_how` asks to wait for the end.
    unsafe {
        let create_logger = log
            .get::<CreateLogger>(b"xtl_createlogger_stdiostream\0")
            .map_err(missing)?;
        let alloc = xl.get::<ContextAlloc>(b"libxl_ctx_alloc\0").map_err(missing)?;
        let free = xl.get::<ContextFree>(b"libxl_ctx_free\0").map_err(missing)?;
        let rename = xl
            .get::<DomainRename>(b"libxl_domain_rename\0")
            .map_err(missing)?;
        let resume = xl
            .get::<DomainResume>(b"libxl_domain_resume\0")
            .map_err(missing)?;
        let stderr = this.get::<*mut *mut c_void>(b"stderr\0").map_err(missing)?;
        let logger = create_logger(**stderr, WARN, 0);
        if logger.is_null() {
            return Err("libxl gives no logger".to_owned());
        }
        let mut context = std::ptr::null_mut();
        let opened = alloc(&raw mut context, 0, 0, logger);
        if opened != 0 {
            return Err(format!(
                "libxl does not open (error {opened}): is this a dom0, and are you root?"
            ));
        }
        let mut done = 0;
        if let Some((from, to)) = &wanted.rename {
            done = rename(context, wanted.domid, from.as_ptr(), to.as_ptr());
        }
        let what = if done == 0 { "resume" } else { "rename" };
        if done == 0 {
            // As a suspend that was called off: the guest goes on as if nothing had been.
            done = resume(context, wanted.domid, 1, std::ptr::null());
        }
        free(context);
        if done == 0 {
            Ok(())
        } else {
            Err(format!(
                "libxl cannot {what} domain {} (error {done})",
                wanted.domid
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn only_a_guest_can_be_meant() {
        assert!(read(&words("7")).is_some_and(|wanted| wanted.domid == 7 && wanted.rename.is_none()));
        assert!(read(&words("7 web--migratedaway web")).is_some_and(|wanted| wanted.rename.is_some()));
        for wrong in ["", "0", "-1", "32752", "x", "7 one", "7  web", "7 a b c"] {
            assert!(read(&words(wrong)).is_none(), "{wrong}");
        }
    }
}
