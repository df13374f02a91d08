"""Completion for bash and zsh, and the man page: made from the table of verbs, kept in the tree, compared by a test.

python -m ovirt_he_ha.cli.reference [DIRECTORY]      writes the three files below DIRECTORY, by default here
"""

import sys
from pathlib import Path
from typing import Callable, Dict, List

from ovirt_he_ha.cli.verbs import GONE, VERBS, Verb, choices, is_optional, spelled, spelled_option

_FILES = ("file", "directory")
_HELP = "--help"


def _name(kind: str) -> str:
    """What a value or a word is called."""
    return kind.strip("[]").replace("...", "").strip()


# --- bash --------------------------------------------------------------------------------------------------------


def bash() -> str:
    lines = [
        "# bash completion for hosted-engine(8), made from its table of verbs",
        "_hosted_engine() {",
        "    local cur=${COMP_WORDS[COMP_CWORD]} option= verb= word kind= words=",
        "    COMPREPLY=()",
        "    # An option and its value are three words: bash breaks them at the equals sign.",
        '    if [ "$cur" = = ]; then',
        "        option=${COMP_WORDS[COMP_CWORD - 1]} cur=",
        '    elif [ "$COMP_CWORD" -gt 2 ] && [ "${COMP_WORDS[COMP_CWORD - 1]}" = = ]; then',
        "        option=${COMP_WORDS[COMP_CWORD - 2]}",
        '    elif [ "$COMP_CWORD" -gt 1 ]; then',
        "        case $cur in -*) ;; *) option=${COMP_WORDS[COMP_CWORD - 1]} ;; esac",
        "    fi",
        '    for word in "${COMP_WORDS[@]:1}"; do',
        "        case $word in",
        f"            {'|'.join(VERBS)}) verb=$word ;;",
        "        esac",
        "    done",
        "    case $verb in",
    ]
    for name, verb in VERBS.items():
        offered = " ".join([*(_offered(option, kind) for option, kind in verb.options.items()), _HELP])
        lines.append(f"        {name}) words='{offered}' kind={_word_kind(verb)} ;;")
    lines += [
        f"        *) words='{' '.join([*VERBS, _HELP])}' ;;",
        "    esac",
        "    case $verb,$option in",
    ]
    for name, verb in VERBS.items():
        for option, value in verb.options.items():
            if choices(value):
                lines.append(f"        {name},{option}) words='{' '.join(choices(value))}' kind=one ;;")
            elif value:
                lines.append(f"        {name},{option}) words= kind={_value_kind(value)} ;;")
    lines += [
        "    esac",
        '    if [ "$kind" = file ] && [ "${cur#-}" = "$cur" ]; then',
        "        compopt -o filenames",
        '        COMPREPLY=($(compgen -f -- "$cur"))',
        "    else",
        '        COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "        case ${COMPREPLY[0]-} in *=) compopt -o nospace ;; esac",
        "    fi",
        "}",
        "complete -F _hosted_engine hosted-engine",
    ]
    return "\n".join(lines) + "\n"


def _offered(option: str, kind: str) -> str:
    return f"{option}=" if kind and not is_optional(kind) else option


def _word_kind(verb: Verb) -> str:
    return "file" if _name(verb.words) in _FILES else "option"


def _value_kind(value: str) -> str:
    return "file" if _name(value) in _FILES else "none"


# --- zsh ---------------------------------------------------------------------------------------------------------


def zsh() -> str:
    lines = [
        "#compdef hosted-engine",
        "# zsh completion for hosted-engine(8), made from its table of verbs",
        "_hosted_engine() {",
        "    local word verb",
        "    local -a verbs",
        "    verbs=(",
        *(f"        {_quoted(f'{name}:{verb.summary}')}" for name, verb in VERBS.items()),
        f"        {_quoted(f'{_HELP}:show the commands')}",
        "    )",
        "    for word in ${words[2,CURRENT-1]} ${words[CURRENT+1,-1]}; do",
        "        case $word in",
        f"            ({'|'.join(VERBS)}) verb=$word ;;",
        "        esac",
        "    done",
        "    case $verb in",
    ]
    for name, verb in VERBS.items():
        given = [_argument(option, kind) for option, kind in verb.options.items()]
        for word in verb.words.split():
            if word != "...":
                many = "*" if verb.words.endswith("...") else ""
                given.append(_quoted(f"{many}:{word}:{_action(word)}"))
        arguments = " ".join([*given, _quoted(f"{_HELP}[explain this command]"), _quoted(f"{name}[{_plain(verb)}]")])
        lines.append(f"        ({name}) _arguments {arguments} ;;")
    lines += ["        (*) _describe -t commands command verbs ;;", "    esac", "}", '_hosted_engine "$@"']
    return "\n".join(lines) + "\n"


def _plain(verb: Verb) -> str:
    return verb.summary.replace("[", "(").replace("]", ")")


def _argument(option: str, kind: str) -> str:
    if not kind:
        return _quoted(option)
    optional = ":" if is_optional(kind) else ""
    return _quoted(f"{option}={'-' if optional else ''}{optional}:{_name(kind)}:{_action(kind)}")


def _action(kind: str) -> str:
    if choices(kind):
        return f"({' '.join(choices(kind))})"
    return {"file": "_files", "directory": "_files -/"}.get(_name(kind), "")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- man page ----------------------------------------------------------------------------------------------------

_HEAD = """.TH HOSTED\\-ENGINE 8 "" "ovirt-he-ha" "System administration"
.SH NAME
hosted\\-engine \\- the engine VM of a cluster: status, start, stop, move, maintenance, configuration
.SH SYNOPSIS
.B hosted\\-engine
.I COMMAND
.RI [ OPTIONS ]
.SH DESCRIPTION
Looks at and acts on the highly available engine VM from one of its hosts. Run it as root or as the user vdsm.
.PP
Options stand in any order, before or behind the command, as
.B \\-\\-option=value
or
.BR "\\-\\-option value" ;
a value that may be left out is given with the equals sign only. What is not understood is refused, and nothing is
changed. After
.B \\-\\-
everything is a word.
.B \\-\\-help
with a command explains it.
.PP
With
.B \\-\\-json
standard output gets one JSON object, also on an error:
.BR "{\\(dqerror\\(dq: {\\(dqcode\\(dq: ..., \\(dqmessage\\(dq: ...}}" .
.PP
No command takes longer than 3 seconds unless it is told to wait, except those that say so: what does not answer by then
is reported as it is.
.SH COMMANDS
"""
_TAIL = """.SH EXIT STATUS
0 done or true; 1 refused, failed or false, with the reason; others as the command says; 130 interrupted.
.SH ENVIRONMENT
.TP
.B OVIRT_HOSTED_ENGINE_CONSOLE_PASSWORD
the password for
.BR \\-\\-add\\-console\\-password ,
where no terminal can be asked.
.TP
.B HOSTED_ENGINE_TRACE
set to anything: an error comes with its trace, for a report.
.TP
.B NO_COLOR
set to anything: no colours.
.SH FILES
.TP
.I /etc/ovirt\\-hosted\\-engine/hosted\\-engine.conf
this host's part of the deployment. It is parsed, never executed.
.TP
.I /etc/ovirt\\-hosted\\-engine\\-ha/agent.conf
what differs on this host: score, libvirt, fencing, migration, the health page.
.TP
.I /var/lib/ovirt\\-hosted\\-engine\\-ha/
local maintenance, the ledger, the recording.
.SH SEE ALSO
.BR sanlock (8),
.BR virsh (1),
.BR systemctl (1)
"""


def man() -> str:
    lines: List[str] = []
    for name, verb in VERBS.items():
        lines += [".TP", f".B {_roff(name)}", f"{_roff(verb.summary)}.", *_usage(name, verb)]
        lines += [line for text in verb.details.splitlines() for line in (".br", _roff(text))]
    lines += [".SH REMOVED COMMANDS", "Answered with what to use instead."]
    for name, text in GONE.items():
        lines += [".TP", f".B {_roff(name)}", f"{_roff(text)}."]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _usage(name: str, verb: Verb) -> List[str]:
    if not (verb.options or verb.words):
        return []
    shown = [_roff(f"[{spelled_option(option, kind)}]") for option, kind in verb.options.items()]
    words = spelled(name, Verb("", "", {}, "", words=verb.words))
    return [".br", f".B {' '.join([_roff(words), *shown])}"]


def _roff(text: str) -> str:
    """No text may be taken for a command of the formatter."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped


# --- README ------------------------------------------------------------------------------------------------------

BEGIN, END = "<!-- commands: made from the table of verbs -->\n", "<!-- end of commands -->\n"


def readme(text: str) -> str:
    """``text`` with the table between its two marks made anew. Raises ValueError where they are not."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    rows = ["| command | what it does |", "|---|---|"]
    for name, verb in VERBS.items():
        spelling = spelled(name, verb).replace("|", "\\|")
        rows.append(f"| `{spelling}` | {verb.summary} |")
    return before + BEGIN + "\n".join(rows) + "\n" + END + after


# Place -> what stands there, made from what stood there.
PLACES: Dict[str, Callable[[str], str]] = {
    "etc/completion/hosted-engine": lambda _text: bash(),
    "etc/completion/_hosted-engine": lambda _text: zsh(),
    "docs/man/hosted-engine.8": lambda _text: man(),
    "README.md": readme,
}


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for place, made in PLACES.items():
        path = root / place
        path.write_text(made(path.read_text(encoding="utf-8") if path.exists() else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
