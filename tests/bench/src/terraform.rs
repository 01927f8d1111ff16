//! Beside Terraform: the plan of as many new `terraform_data` resources, the one kind that needs no provider, so nothing
//! but Terraform's own planning is measured.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use crate::fleet::{Repository, Shape};
use crate::measure::{Spent, spend};
use crate::plan::megabytes;
use crate::report::{Figure, Goal};
use crate::{Failure, Scale, Setting};

/// Both plan as many new things, each with its own program, from start to end; the report divides.
pub(crate) fn beside(setting: &Setting) -> Result<Vec<Figure>, Failure> {
    let ratio = "faster than Terraform, a resource";
    let goal = Goal::AtLeast(100.0);
    let missing = |why| {
        Ok(vec![
            Figure::missing(format!("{ratio}, 16×"), "×", why).goal(goal),
        ])
    };
    let Some(version) = version() else {
        return missing("terraform is not installed");
    };
    let Some(xeno) = &setting.xeno else {
        return missing("no xeno program was built");
    };
    if setting.scale == Scale::Tiny {
        return missing("it takes minutes, so only `make bench` does it");
    }
    let mut figures = Vec::new();
    for (times, nodes) in [("1×", 60), ("4×", 240), ("16×", 960)] {
        let shape = Shape {
            nodes,
            per_node: 20,
            health: true,
        };
        let resources = f64::from(shape.slivers());
        let theirs = terraform(setting, shape)?;
        let repository = Repository::create(&setting.dir.join(format!("beside-{nodes}.git")), shape)?;
        let mut command = Command::new(xeno);
        command.args(["plan", "--repo"]).arg(&repository.path);
        let mut ours = spend(&mut command)?;
        for _ in 1..setting.runs {
            let again = spend(&mut command)?;
            ours = if again.wall < ours.wall { again } else { ours };
        }
        let steps = steps(command.args(["-o", "json"]))?;
        let each = |spent: Spent| spent.wall.as_secs_f64() * 1e6 / resources;
        let figure = Figure::new(format!("{ratio}, {times}"), each(theirs) / each(ours), "×").note(format!(
            "{resources} resources: {version} {:.1} s, {:.0} MB; xeno {:.2} s, {:.0} MB",
            theirs.wall.as_secs_f64(),
            megabytes(theirs.peak),
            ours.wall.as_secs_f64(),
            megabytes(ours.peak),
        ));
        if nodes < 960 {
            figures.push(figure);
            continue;
        }
        figures.push(figure.goal(goal));
        // What Terraform plans of a resource is that it is made; a sliver is fetched, stacked, served, booted, awaited.
        let step = ours.wall.as_secs_f64() * 1e6 / steps;
        figures.push(
            Figure::new(
                format!("faster than Terraform, a planned step, {times}"),
                each(theirs) / step,
                "×",
            )
            .note(format!(
                "{steps} steps of {resources} slivers, each with its order, its cost and its reasons"
            )),
        );
    }
    Ok(figures)
}

/// How many steps the plans have that a command prints.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn steps(command: &mut Command) -> Result<f64, Failure> {
    let output = command.output()?;
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let plans = printed["plans"].as_array().ok_or("no plans were printed")?;
    let steps = plans
        .iter()
        .map(|plan| plan["actions"].as_array().map_or(0, Vec::len));
    Ok(steps.sum::<usize>() as f64)
}

fn version() -> Option<String> {
    let output = terraform_command().arg("version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or("Terraform").to_owned())
}

/// Once: it takes its time, and its time varies little against a hundredfold.
fn terraform(setting: &Setting, shape: Shape) -> Result<Spent, Failure> {
    let dir = setting.dir.join(format!("terraform-{}", shape.nodes));
    std::fs::create_dir_all(&dir)?;
    // One block for each service with a count, as a slice has slivers: shorter for Terraform than a block for each.
    let mut text = String::new();
    for slice in 0..shape.slices() {
        let name = crate::fleet::slice_name(slice);
        let nodes: Vec<String> = crate::fleet::nodes_of(shape, slice)
            .map(|node| format!("\"{node}\""))
            .collect();
        write!(
            text,
            "resource \"terraform_data\" \"{name}\" {{\n  count = {}\n  input = {{\n    node = [{}][count.index]\n    \
             kernel = \"debian-web/current\"\n    memory = 128\n    vcpus = 1\n    disk = 1024\n    port = 8080 + count.index\n  \
             }}\n}}\n",
            nodes.len(),
            nodes.join(", ")
        )?;
    }
    std::fs::write(dir.join("main.tf"), text)?;
    let ready = terraform_command()
        .current_dir(&dir)
        .args(["init", "-input=false", "-no-color"])
        .stdout(Stdio::null())
        .status()?;
    if !ready.success() {
        return Err("terraform init failed".into());
    }
    // Nothing is deployed yet, so there is nothing to refresh.
    let arguments = [
        "plan",
        "-input=false",
        "-no-color",
        "-lock=false",
        "-refresh=false",
        "-out=plan",
    ];
    spend(terraform_command().current_dir(&dir).args(arguments))
}

/// Without the settings of whoever runs this, and without asking anybody whether there is a newer one.
fn terraform_command() -> Command {
    let mut command = Command::new("terraform");
    command
        .env("CHECKPOINT_DISABLE", "1")
        .env("TF_IN_AUTOMATION", "1")
        // Whatever the person who measures has configured.
        .env_remove("TF_CLI_CONFIG_FILE")
        .env_remove("TF_LOG");
    command
}
