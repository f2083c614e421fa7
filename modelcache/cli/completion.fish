# Completion of cache-models in fish: the output of `cache-models completion fish`.

# command|help
set -g __cache_models_commands@COMMANDS@
# commands|flag|value|help; cli/completion.py says what the fields mean
set -g __cache_models_rows@ROWS@

# Print what a flag takes; 1 where it is no flag of the command. Any command will do where none is named.
function __cache_models_value -a command flag
    for row in $__cache_models_rows
        set -l fields (string split -m 3 '|' -- $row)
        if test "$fields[2]" = "$flag"; and begin
                test -z "$command"; or contains -- $command (string split ' ' -- $fields[1])
            end
            echo $fields[3]
            return 0
        end
    end
    return 1
end

# Print the ids of models.toml and models.lock. Only characters of an id: what else a file has in it is not ours to offer.
function __cache_models_ids
    command sed 's/^[[:space:]]*#.*//' -- $argv 2>/dev/null | command tr '{,' '\n\n' |
        command sed -nE "s/^[[:space:]]*id[[:space:]]*=[[:space:]]*[\"']([A-Za-z0-9._/-]+)[\"'].*/\1/p" |
        command sort -u
end

function __cache_models_complete
    set -l current (commandline -ct)
    set -l plain (string unescape -- "$current"); and set current "$plain" # not behind an open quote
    set -l words (commandline -opc)
    set -e words[1]
    set -l names (string split -f 1 '|' -- $__cache_models_commands)
    set -l command ''
    set -l before ''
    for word in $words
        test "$word" = --; and break
        if contains -- $word $names
            set -l value (string match -q -- '--*' $before; and __cache_models_value '' $before)
            if test -z "$value" -o "$value" = ids
                set command $word
                break
            end
        end
        set before $word
    end
    set -l owner $command
    test -n "$owner"; or set owner sync

    set -l manifest models.toml
    set -q CACHE_MODELS_MANIFEST; and test -n "$CACHE_MODELS_MANIFEST"; and set manifest $CACHE_MODELS_MANIFEST
    set -l lockfile $CACHE_MODELS_LOCKFILE
    set -l flag ''
    set -l ended ''
    for word in $words
        if test -n "$ended"
            continue
        else if test "$word" = --
            set ended 1
            set flag ''
        else if string match -q -- '--*=*' $word
            set flag ''
            set -l parts (string split -m 1 = -- $word)
            test "$parts[1]" = --manifest; and set manifest $parts[2]
            test "$parts[1]" = --lockfile; and set lockfile $parts[2]
        else if string match -q -- '-*' $word
            set flag ''
            set -l value (__cache_models_value $owner $word)
            test -n "$value"; and set flag $word
        else
            test "$flag" = --manifest; and set manifest $word
            test "$flag" = --lockfile; and set lockfile $word
            set -l value (__cache_models_value $owner $flag)
            test "$value" = ids; or set flag ''
        end
    end
    set manifest (string replace -r '^~/' "$HOME/" -- $manifest)
    test -n "$lockfile"; or set lockfile (string replace -r '\.[^./]*$' '' -- $manifest).lock
    set lockfile (string replace -r '^~/' "$HOME/" -- $lockfile)

    set -l value (test -n "$flag"; and __cache_models_value $owner $flag)
    set -l prefix ''
    if test -z "$ended"; and test -z "$flag" -o "$value" = ids
        if string match -q -- '--*=*' $current
            set flag (string split -m 1 = -- $current)[1]
            set prefix $flag=
            set value (__cache_models_value $owner $flag)
        else if string match -q -- '-*' $current
            for row in $__cache_models_rows
                set -l fields (string split -m 3 '|' -- $row)
                test "$fields[2]" != @; and contains -- $owner (string split ' ' -- $fields[1])
                and printf '%s\t%s\n' $fields[2] $fields[4]
            end
            return
        end
    end
    if test -z "$flag$command$ended"
        set -l offered (string match -- "$current*" $names)
        if set -q offered[1]
            string replace '|' \t -- $__cache_models_commands
            return
        end
    end
    test -n "$flag"; or set value (__cache_models_value $owner @)
    set -l rest (string sub -s (math (string length -- "$prefix") + 1) -- "$current")
    switch "$value"
        case '=*'
            printf '%s\n' $prefix(string split ' ' -- (string sub -s 2 -- $value))
        case id ids
            printf '%s\n' $prefix(__cache_models_ids $manifest $lockfile)
        case file source
            set -l scheme (test $value = source; and string match -r '^(?:oci|oci-archive):' -- "$rest")
            set -l path (string replace -- "$scheme" '' "$rest")
            printf '%s\n' "$prefix$scheme"(__fish_complete_path "$path")
        case directory
            printf '%s\n' $prefix(__fish_complete_directories "$rest" '')
    end
end

complete -c cache-models -f -a '(__cache_models_complete)'
