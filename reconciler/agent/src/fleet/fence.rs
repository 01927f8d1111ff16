//! Making sure that a node is off: by the command of the site, if it has one.

use std::pin::Pin;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::{Duration, timeout};
use xeno_model::id::NodeName;

/// What stands for the node's name in the words of the command.
pub(crate) const NODE: &str = "{node}";

/// How long the command may take: power is switched by machines that are slow themselves.
const TAKES_MAX: Duration = Duration::from_secs(120);

/// How much of what it says is kept, in bytes.
const SAYS_LEN_MAX: u64 = 1024;

/// The outcome of making sure.
pub(crate) type Fencing<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// A way to make sure.
pub(crate) trait Fence: Send + Sync {
    /// Makes sure that a node is off, or cut from all storage; done again it does no harm. Fails with the reason where it is not
    /// certain.
    fn fence<'a>(&'a self, node: &'a NodeName) -> Fencing<'a>;
}

/// A program of the site, and its arguments. It has made sure if it ends with 0.
pub(crate) struct FenceCommand {
    pub(crate) words: Vec<String>,
}

impl Fence for FenceCommand {
    fn fence<'a>(&'a self, node: &'a NodeName) -> Fencing<'a> {
        Box::pin(async move {
            let mut words = self.words.iter().map(|word| word.replace(NODE, node.as_str()));
            let program = words.next().ok_or("it has no words")?;
            let mut child = Command::new(&program)
                .args(words)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| format!("start {program}: {error}"))?;
            let said = child.stderr.take();
            let ended = async { tokio::join!(child.wait(), beginning(said)) };
            match timeout(TAKES_MAX, ended).await {
                Ok((Ok(status), said)) => judge(status, &said),
                Ok((Err(error), _)) => Err(format!("wait for {program}: {error}")),
                Err(_) => Err(format!("it did not end within {} s", TAKES_MAX.as_secs())),
            }
        })
    }
}

fn judge(status: ExitStatus, said: &str) -> Result<(), String> {
    match (status.success(), said) {
        (true, _) => Ok(()),
        (false, "") => Err(status.to_string()),
        (false, said) => Err(format!("{status}: {said}")),
    }
}

/// The beginning of what it says, in one line; the rest is read and dropped, so that nothing stops it from ending.
async fn beginning(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else {
        return String::new();
    };
    let mut bytes = Vec::new();
    // What cannot be read was not said.
    let _read = (&mut from).take(SAYS_LEN_MAX).read_to_end(&mut bytes).await;
    let _rest = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(words: &[&str], expected: Result<(), &str>) {
        let command = FenceCommand {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        };
        let node = NodeName::new("cam-01").unwrap();
        let fenced = command.fence(&node).await;
        assert_eq!(fenced, expected.map_err(str::to_owned), "{words:?}");
    }

    #[tokio::test]
    async fn a_node_is_off_where_the_command_says_so() {
        check(&["true", NODE], Ok(())).await;
        check(&["test", "{node}-power", "=", "cam-01-power"], Ok(())).await;
        check(&["false"], Err("exit status: 1")).await;
        check(
            &["sh", "-c", "echo no route to >&2; echo $0-ipmi >&2; exit 3", NODE],
            Err("exit status: 3: no route to cam-01-ipmi"),
        )
        .await;
        let missing = "/no/such/program";
        let why = format!("start {missing}: No such file or directory (os error 2)");
        check(&[missing, NODE], Err(&why)).await;
    }

    #[tokio::test]
    async fn whatever_it_says_it_ends() {
        let long = "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1";
        let said = format!("exit status: 1: {}", "x".repeat(1024));
        check(&["sh", "-c", long], Err(&said)).await;
    }
}
