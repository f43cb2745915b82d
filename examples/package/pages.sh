#!/bin/sh
# pages.sh PROGRAM man|bash|zsh - bmvp's manual page, or the completion of its commands and options for a shell, from what its --help says.
program=$1 kind=$2
commands=$("$program" --help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
if [ -z "$commands" ]; then echo "pages.sh: $program --help names no command" >&2; exit 1; fi
version=$(sed -n '1s/.* \(v[0-9.]*\) .*/\1/p' "$(dirname "$0")/../../bmvp_tensor.h")

# options COMMAND: each option that its help has, as this kind of page shows it
options()
{
    "$program" "$1" --help | awk -v command="$1" -v kind="$kind" -v quote="'" '
        function roff(s) { gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); sub(/^[.'"'"']/, "\\\\&&", s); return s }
        function plain(s) { gsub(/[][\\:"`$]/, " ", s); gsub(quote, " ", s); return s } # inside the quotes of a completion
        function put() {
            if (name == "") return
            if (kind == "man") printf ".TP\n.B %s\n%s\n", roff(name (value != "" ? " " value : "")), roff(text)
            else if (kind == "bash") {
                all = all " " name
                if (choice != "") printf "    %s:%s) words=\"%s\" ;;\n", command, name, choice
            }
            else {
                after = value == "" ? "" : ":" plain(value) ":" (choice != "" ? "(" choice ")" : "_files")
                printf "        %s%s[%s]%s%s \\\n", quote, name, plain(text), after, quote
            }
            name = ""
        }
        NR == 1 { next }
        /^  --/ {
            put()
            at = match(substr($0, 3), /   *[^ ]/)
            head = at ? substr($0, 3, at - 1) : substr($0, 3)
            text = at ? substr($0, 2 + at) : ""
            sub(/^ */, "", text)
            name = head
            sub(/ .*/, "", name)
            value = substr(head, length(name) + 2)
            choice = ""
            next
        }
        name != "" {
            sub(/^ */, "")
            if (/^\(one of /) {
                choice = substr($0, 9)
                sub(/[;)].*/, "", choice)
                gsub(/\|/, " ", choice)
            }
            text = text " " $0
            next
        }
        kind == "man" && NF { print roff($0) }
        END { put(); if (kind == "bash") printf "    %s:*) words=\"%s\" ;;\n", command, substr(all, 2) }'
}

man_page()
{
    printf '.TH BMVP 1 "" "bmvp %s" "User commands"\n.SH NAME\n' "$version"
    "$program" --help | sed -n '1s/-/\\-/gp'
    printf '.SH SYNOPSIS\n.B bmvp\n.I COMMAND\n[options]\n.SH COMMANDS\n'
    for c in $commands; do
        printf '.SS %s\n' "$c"
        options "$c"
    done
    printf '.SH EXIT STATUS\n0 done, 1 failed, 2 bad options.\n'
}

# Values that are no list of names are files, which bash completes by itself (-o default).
bash_completion()
{
    cat <<'END'
# bash completion of bmvp
_bmvp()
{
    local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=
    [[ $COMP_CWORD -eq 1 || $cur == -* ]] && before=
    case ${COMP_WORDS[1]}:$before in
END
    for c in $commands; do options "$c" | sed '$d'; done
    printf '    esac\n    if [[ $COMP_CWORD -eq 1 ]]; then words="%s"\n    elif [[ $cur == -* ]]; then\n    case ${COMP_WORDS[1]}: in\n' \
        "$(echo $commands)"
    for c in $commands; do options "$c" | tail -n 1; done
    printf '    esac\n    fi\n    COMPREPLY=($(compgen -W "$words" -- "$cur"))\n}\ncomplete -o default -F _bmvp bmvp\n'
}

zsh_completion()
{
    printf '#compdef bmvp\nlocal -a commands\ncommands=(%s)\n' "$(echo $commands)"
    printf 'if ((CURRENT == 2)); then compadd -a commands; return; fi\n'
    printf 'local command=$words[2]\nshift words\n((CURRENT--))\ncase $command in\n'
    for c in $commands; do
        printf '    %s) _arguments \\\n' "$c"
        options "$c"
        printf "        '*:file:_files' ;;\n"
    done
    printf 'esac\n'
}

case $kind in
man) man_page ;;
bash) bash_completion ;;
zsh) zsh_completion ;;
*) echo "usage: pages.sh PROGRAM man|bash|zsh" >&2; exit 2 ;;
esac
