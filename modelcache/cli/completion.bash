# Completion of cache-models in bash: the output of `cache-models completion bash`.

# command|help
_cache_models_commands=(@COMMANDS@)
# commands|flag|value|help; cli/completion.py says what the fields mean
_cache_models_rows=(@ROWS@)

# Set `value` to what a flag takes; 1 where it is no flag of the command. Any command will do where none is named.
_cache_models_value() {
    local row names flag
    for row in "${_cache_models_rows[@]}"; do
        names=${row%%|*} row=${row#*|}
        flag=${row%%|*} row=${row#*|}
        if [[ $flag == "$2" && ( -z $1 || " $names " == *" $1 "* ) ]]; then
            value=${row%%|*}
            return 0
        fi
    done
    value=
    return 1
}

_cache_models_is_command() {
    local row
    for row in "${_cache_models_commands[@]}"; do
        [[ ${row%%|*} != "$1" ]] || return 0
    done
    return 1
}

# Print the ids of models.toml and models.lock. Only characters of an id: what else a file has in it is not ours to offer.
_cache_models_ids() {
    command sed 's/^[[:space:]]*#.*//' -- "$@" 2>/dev/null | command tr '{,' '\n\n' |
        command sed -nE "s/^[[:space:]]*id[[:space:]]*=[[:space:]]*[\"']([A-Za-z0-9._/-]+)[\"'].*/\1/p" |
        command sort -u
}

# Offer those of the words on stdin that begin with the current one.
_cache_models_offer() {
    local word
    while IFS= read -r word; do
        [[ $word != "$current"* ]] || COMPREPLY+=("$word")
    done
}

_cache_models() {
    local IFS=$' \t\n' current=${COMP_WORDS[COMP_CWORD]} command='' flag='' last='' value='' before='' word row names
    local manifest=${CACHE_MODELS_MANIFEST:-models.toml} lockfile=${CACHE_MODELS_LOCKFILE:-} joined='' ended='' index
    COMPREPLY=()
    for ((index = 1; index < ${#COMP_WORDS[@]}; index++)); do
        word=${COMP_WORDS[index]}
        [[ $word != -- ]] || break
        if [[ $index != "$COMP_CWORD" && $before != = ]] && _cache_models_is_command "$word"; then
            [[ $before == --* ]] && _cache_models_value '' "$before" || value=
            [[ -n $value && $value != ids ]] || { command=$word; break; }
        fi
        before=$word
    done
    # bash makes three words of --format=json and of oci:DIR.
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ -n $ended ]]; then
            continue
        elif [[ $word == -- ]]; then
            ended=1 flag=
        elif [[ $word == = ]]; then
            joined=1
        elif [[ $word == : ]]; then
            flag=$last
        elif [[ $word == -* ]]; then
            joined=
            _cache_models_value "${command:-sync}" "$word" && [[ -n $value ]] && flag=$word || flag=
        else
            word=${word/#\~\//$HOME/}
            [[ $flag != --manifest ]] || manifest=$word
            [[ $flag != --lockfile ]] || lockfile=$word
            last=$flag
            _cache_models_value "${command:-sync}" "$flag" || value=
            [[ $value == ids && -z $joined ]] || flag=
        fi
    done
    [[ $current != = && $current != : ]] || current=
    [[ -z $flag ]] || _cache_models_value "${command:-sync}" "$flag" || value=
    if [[ $current == -* && -z $ended && ( -z $flag || $value == ids ) ]]; then
        _cache_models_offer < <(
            for row in "${_cache_models_rows[@]}"; do
                names=${row%%|*} row=${row#*|}
                [[ " $names " != *" ${command:-sync} "* || $row == @* ]] || printf '%s\n' "${row%%|*}"
            done
        )
        return
    fi
    if [[ -z $flag && -z $command && -z $ended ]]; then
        _cache_models_offer < <(printf '%s\n' "${_cache_models_commands[@]%%|*}")
        [[ ${#COMPREPLY[@]} == 0 ]] || return 0
    fi
    [[ -n $flag ]] || _cache_models_value "${command:-sync}" @ || value=
    case $value in
        =*) _cache_models_offer < <(printf '%s\n' ${value#=}) ;;
        id | ids) _cache_models_offer < <(_cache_models_ids "$manifest" "${lockfile:-${manifest%.*}.lock}") ;;
        # Without an answer of ours bash completes paths itself, and quotes them.
        file | source) compopt -o default ;;
        directory) compopt -o dirnames ;;
    esac
}

complete -F _cache_models cache-models
