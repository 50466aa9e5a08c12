//! `naikon events`: hits as JSON lines as they happen, until enough have come, the reader goes, or the daemon does.

use std::io::{self, BufRead as _, Write as _};

use clap::{Args, ValueEnum};

use super::{
    client,
    exit::{Code, Failure},
    pipe,
    place::Socket,
};
use crate::{
    event::{Filter, LOST},
    prefix::Prefix,
    protocol::{Request, Response},
    ruleset::ListAction,
};

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Only internal hosts in here: an address or a prefix
    #[arg(long, value_name = "IP")]
    host: Option<Prefix>,
    /// Only indicators in here: an address or a prefix
    #[arg(long, value_name = "IP")]
    indicator: Option<Prefix>,
    /// Only hits of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// Only those of 'drop', or of 'monitor'
    #[arg(long, value_enum, hide_possible_values = true)]
    action: Option<ActionArg>,
    /// End after so many; lines about lost ones do not count
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON lines, as it does in any case
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ActionArg {
    Drop,
    Monitor,
}

pub(super) fn run(command: &Command) -> Result<Code, Failure> {
    let filter = Filter {
        host: command.host,
        indicator: command.indicator,
        list: command.list.clone(),
        action: command.action.map(|action| match action {
            ActionArg::Drop => ListAction::Drop,
            ActionArg::Monitor => ListAction::Monitor,
        }),
    };
    let control = command.socket.control()?;
    let (response, mut lines) = client::converse(&control, &Request::Events { filter })?;
    let Response::Following = response else { return Err(client::unexpected(&response)) };
    client::tell_unknown_list(&control, command.list.as_deref());
    let lost = |error: io::Error| {
        Failure::new(Code::NoDaemon, format!("following the daemon at {}: {error}", control.display()))
    };
    // However long nothing happens.
    lines.get_ref().set_read_timeout(None).map_err(lost)?;
    let mut out = io::stdout().lock();
    let (mut line, mut left) = (String::new(), command.count);
    while left != Some(0) {
        // Who has seen enough is not kept in its seat by silence.
        if lines.buffer().is_empty() && !pipe::await_input(lines.get_ref()).map_err(lost)? {
            return Ok(Code::Done);
        }
        line.clear();
        let length = lines.read_line(&mut line).map_err(lost)?;
        // A line without an end is none: the daemon was killed while it wrote.
        if length == 0 || !line.ends_with('\n') {
            return Err(Failure::new(Code::NoDaemon, "the daemon has ended; follow again when it is back"));
        }
        // Its text is escaped, so it steers no terminal.
        out.write_all(line.as_bytes())?;
        out.flush()?;
        let is_event = !line.contains(&format!("\"event_type\":\"{LOST}\""));
        left = left.map(|left| left - u64::from(is_event));
    }
    Ok(Code::Done)
}
