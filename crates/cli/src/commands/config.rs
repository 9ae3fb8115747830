//! `selvedge config`

use serde::Serialize;

use crate::commands::mount::SetArgs;
use crate::context::Context;
use crate::error::Result;
use crate::settings::{Setting, Settings, Value};
use crate::ui::table;

/// Show what is set, and where that was said
///
/// Settings come from the user's file (`$XDG_CONFIG_HOME/selvedge/config.toml`, else ~/.config/selvedge/config.toml), the
/// repository's (.selvedge/config.toml), environment variables (`SELVEDGE_MOUNT_THREADS` for threads in `[mount]`) and the
/// command line; each counts more than those before it. A running service reads the user's file again on SIGHUP; mounts
/// keep what they were made with.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Show only these settings, for instance mount.threads
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    set: SetArgs,
}

/// One setting.
#[derive(Debug, Serialize)]
struct Document<'a> {
    key: String,
    value: &'a Value,
    unit: Option<&'static str>,
    origin: String,
    default: &'static str,
    effect: &'static str,
}

/// Runs the command.
pub fn run(context: &Context, args: &ConfigArgs) -> Result<()> {
    let settings = settings(context, args)?;
    for key in &args.keys {
        settings.get(key)?;
    }
    let is_wanted = |setting: &&Setting| args.keys.is_empty() || args.keys.contains(&setting.knob.key());
    let shown: Vec<&Setting> = settings.list().iter().filter(is_wanted).collect();
    let documents: Vec<_> = shown.iter().map(|setting| document(setting)).collect();
    context.ui.result(&documents, || {
        let row = |setting: &&Setting| {
            let knob = setting.knob;
            [knob.key(), setting.value.show(), knob.unit.to_owned(), setting.origin.to_string()]
        };
        let rows: Vec<_> = shown.iter().map(row).collect();
        table(["SETTING", "VALUE", "UNIT", "FROM"], &rows)
    })
}

/// With those of the repository, if one is meant. One that was only come upon and cannot be used sets nothing.
fn settings(context: &Context, args: &ConfigArgs) -> Result<Settings> {
    let overrides = &args.set.set;
    if let Some(named) = context.named_repository()? {
        return context.settings_for(&context.open_repository(&named)?, overrides);
    }
    let alone = || Settings::load(&context.environment, overrides);
    let Some(found) = context.found_repository()? else { return alone() };
    // What is wrong with the user's own settings is not the repository's fault.
    context.settings()?;
    let with_it = context.open_repository(&found);
    match with_it.and_then(|repository| context.settings_for(&repository, overrides)) {
        Err(error) if error.kind == selvedge_worker_proto::ErrorKind::NotPermitted => {
            context.ui.warn(format!("the repository's settings do not count: {}", error.message));
            alone()
        }
        settings => settings,
    }
}

fn document(setting: &Setting) -> Document<'_> {
    let knob = setting.knob;
    Document {
        key: knob.key(),
        value: &setting.value,
        unit: Some(knob.unit).filter(|unit| !unit.is_empty()),
        origin: setting.origin.to_string(),
        default: knob.default.as_str(),
        effect: knob.effect,
    }
}
