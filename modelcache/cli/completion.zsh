#compdef cache-models
# Completion of cache-models in zsh: the output of `cache-models completion zsh`.

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

# Print the ids of models.toml and models.lock. Only characters of an id: what else a file has in it is not ours to offer.
_cache_models_ids() {
    command sed 's/^[[:space:]]*#.*//' -- "$@" 2>/dev/null | command tr '{,' '\n\n' |
        command sed -nE "s/^[[:space:]]*id[[:space:]]*=[[:space:]]*[\"']([A-Za-z0-9._/-]+)[\"'].*/\1/p" |
        command sort -u
}

_cache-models() {
    local command= flag= value= before= word row names ended= index
    local manifest=${CACHE_MODELS_MANIFEST:-models.toml} lockfile=${CACHE_MODELS_LOCKFILE:-}
    local -a known offered
    known=("${(@)_cache_models_commands%%|*}")
    for ((index = 2; index <= $#words; index++)); do
        word=${(Q)words[index]}
        [[ $word != -- ]] || break
        if [[ $index != $CURRENT ]] && (( ${known[(Ie)$word]} )); then
            [[ $before == --* ]] && _cache_models_value '' $before || value=
            [[ -n $value && $value != ids ]] || { command=$word; break; }
        fi
        before=$word
    done
    for ((index = 2; index < CURRENT; index++)); do
        word=${(Q)words[index]}
        if [[ -n $ended ]]; then
            continue
        elif [[ $word == -- ]]; then
            ended=1 flag=
        elif [[ $word == --*=* ]]; then
            flag=
            [[ $word != --manifest=* ]] || manifest=${word#*=}
            [[ $word != --lockfile=* ]] || lockfile=${word#*=}
        elif [[ $word == -* ]]; then
            _cache_models_value ${command:-sync} $word && [[ -n $value ]] && flag=$word || flag=
        else
            word=${word/#\~\//$HOME/}
            [[ $flag != --manifest ]] || manifest=$word
            [[ $flag != --lockfile ]] || lockfile=$word
            _cache_models_value ${command:-sync} "$flag" || value=
            [[ $value == ids ]] || flag=
        fi
    done
    [[ -z $flag ]] || _cache_models_value ${command:-sync} $flag || value=
    if [[ -z $ended && ( -z $flag || $value == ids ) ]]; then
        if [[ $PREFIX == --*=* ]]; then
            flag=${PREFIX%%\=*}
            _cache_models_value ${command:-sync} $flag || return 1
            compset -P '*='
        elif [[ $PREFIX == -* ]]; then
            for row in "${_cache_models_rows[@]}"; do
                names=${row%%|*} row=${row#*|}
                [[ " $names " != *" ${command:-sync} "* || $row == @* ]] || offered+=("${row%%|*}:${row##*|}")
            done
            _describe -o option offered
            return
        fi
    fi
    if [[ -z $flag && -z $command && -z $ended ]]; then
        offered=("${(@)_cache_models_commands/|/:}")
        _describe command offered && return
    fi
    [[ -n $flag ]] || _cache_models_value ${command:-sync} @ || value=
    case $value in
        \=*) compadd -- ${=value#\=} ;;
        id | ids) compadd -- ${(f)"$(_cache_models_ids "${manifest/#\~\//$HOME/}" "${lockfile:-${manifest%.*}.lock}")"} ;;
        file) _files ;;
        source)
            compset -P '(oci|oci-archive):'
            _files
            ;;
        directory) _files -/ ;;
        *) return 1 ;;
    esac
}

if [[ $funcstack[1] == _cache-models ]]; then # as a file of $fpath it is the body of the function
    _cache-models "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
    compdef _cache-models cache-models
fi
