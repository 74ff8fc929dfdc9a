//! A command line as cobra reads it: flags anywhere, `--name value`, `--name=value` and `-w value`, then arguments.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::Failed;

/// A flag that a command knows.
pub(super) struct Flag {
    /// What stands behind two dashes.
    pub(super) name: &'static str,
    /// One letter that stands for the name; a blank if there is none.
    pub(super) letter: char,
    /// Whether it may stand alone.
    pub(super) is_switch: bool,
}

impl Flag {
    /// The one that every command knows.
    pub(super) const HELP: Self = Self { name: "help", letter: 'h', is_switch: true };

    /// One that takes a value.
    pub(super) const fn text(name: &'static str) -> Self {
        Self { name, letter: ' ', is_switch: false }
    }

    /// One that may stand alone.
    pub(super) const fn switch(name: &'static str) -> Self {
        Self { name, letter: ' ', is_switch: true }
    }
}

/// What a command line says.
#[derive(Debug, Default)]
pub(super) struct CommandLine {
    values: Vec<(&'static str, String)>,
    /// What is no flag.
    pub(super) arguments: Vec<String>,
}

impl CommandLine {
    /// Reads `args` with the flags that the command knows.
    ///
    /// # Errors
    /// What cobra says.
    pub(super) fn read(args: &[String], known: &[Flag]) -> Result<Self, Failed> {
        let mut line = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                line.arguments.extend(args.cloned());
                break;
            }
            if arg == "-" || !arg.starts_with('-') {
                line.arguments.push(arg.clone());
                continue;
            }
            let (flag, given) = find(arg, known)?;
            let value = match given {
                Some(value) => value,
                None if flag.is_switch => "true".to_owned(),
                None => args.next().cloned().ok_or_else(|| {
                    Failed::error(match arg.strip_prefix("--") {
                        Some(_) => format!("flag needs an argument: {arg}"),
                        None => format!("flag needs an argument: '{}' in {arg}", flag.letter),
                    })
                })?,
            };
            line.values.push((flag.name, value));
        }
        Ok(line)
    }

    /// The last value of a flag; none where it was not given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.values.iter().rev();
        values.find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// The last path that a flag was given. An empty one is none.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

/// The flag that an argument names, and the value that stands in the same argument.
fn find<'k>(arg: &str, known: &'k [Flag]) -> Result<(&'k Flag, Option<String>), Failed> {
    if let Some(rest) = arg.strip_prefix("--") {
        let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
        let found = known.iter().find(|flag| flag.name == name);
        let flag = found.ok_or_else(|| Failed::error(format!("unknown flag: --{name}")))?;
        return Ok((flag, value.map(str::to_owned)));
    }
    let mut rest = arg[1..].chars();
    let letter = rest.next().unwrap_or(' ');
    let found = known.iter().find(|flag| flag.letter == letter && letter != ' ');
    let unknown = || Failed::error(format!("unknown shorthand flag: '{letter}' in {arg}"));
    let flag = found.ok_or_else(unknown)?;
    let value = rest.as_str();
    let value = value.strip_prefix('=').unwrap_or(value);
    Ok((flag, (!value.is_empty()).then(|| value.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Flag; 3] = [
        Flag { name: "write-out", letter: 'w', is_switch: false },
        Flag::text("data-dir"),
        Flag::switch("skip-hash-check"),
    ];

    fn read(line: &str) -> Result<CommandLine, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        CommandLine::read(&args, &KNOWN).map_err(|failed| failed.text)
    }

    #[test]
    fn flags_stand_anywhere_and_take_every_form() {
        for line in [
            "a -w json --data-dir d",
            "--write-out=json a --data-dir=d",
            "-wjson --data-dir d -- a",
            "-w=json a --data-dir=d",
        ] {
            let read = read(line).unwrap();
            assert_eq!(read.arguments, ["a"], "{line}");
            assert_eq!((read.get("write-out"), read.get("data-dir")), (Some("json"), Some("d")), "{line}");
            assert_eq!(read.get("skip-hash-check"), None);
        }
        assert_eq!(read("--skip-hash-check a").unwrap().get("skip-hash-check"), Some("true"));
        assert_eq!(read("--skip-hash-check=false").unwrap().get("skip-hash-check"), Some("false"));
        assert_eq!(read("-w a -w b").unwrap().get("write-out"), Some("b"));
    }

    #[test]
    fn what_is_wrong_is_said_as_cobra_says_it() {
        for (line, said) in [
            ("--foo", "unknown flag: --foo"),
            ("--foo=1", "unknown flag: --foo"),
            ("-x", "unknown shorthand flag: 'x' in -x"),
            ("--data-dir", "flag needs an argument: --data-dir"),
            ("-w", "flag needs an argument: 'w' in -w"),
        ] {
            assert_eq!(read(line).unwrap_err(), said);
        }
    }
}
