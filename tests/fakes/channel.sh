#!/bin/sh
# A channel in twenty lines of shell, written from docs/channels.md alone: a person's line in the file `says` is a
# message until the host has kept it, and what the host sends is appended to `hears`.
trap '' INT
say() { printf '%s\n' "$1" >&3; }

say '{"frame":"hello","version":1,"program":"channel.sh","linked":true,"can":["typing"]}'
say '{"frame":"connected","account":{"id":"house@sh"}}'
kept=$(cat kept 2>/dev/null || echo 0)
number=$kept
tail -n "+$((kept + 1))" says 2>/dev/null >unkept
while IFS= read -r text; do
    number=$((number + 1))
    say '{"frame":"message","seq":'$number',"chat":{"id":"kitchen@sh","alt":"","name":"Kitchen","kind":"group"},"id":"m'$number'","sender":{"id":"ann@sh","name":"Ann"},"own":false,"at":'"$(date +%s)"',"text":"'"$text"'"}'
done <unkept
while IFS= read -r line <&3; do
    frame=${line#*'"frame":"'} frame=${frame%%'"'*}
    id=${line#*'"id":'} id=${id%%[!0-9]*}
    case $frame in
        kept) seq=${line#*'"seq":'} && echo "${seq%%[!0-9]*}" >kept ;;
        send) printf '%s\n' "$line" >>hears && say '{"frame":"done","id":'"$id"',"sent":["s'"$id"'"]}' ;;
        stop) say '{"frame":"done","id":'"$id"'}' && exit 0 ;;
        typing | ping) say '{"frame":"done","id":'"$id"'}' ;;
        *) say '{"frame":"failed","id":'"$id"',"reason":"unsupported","text":"this is a shell","retry":-1}' ;;
    esac
done
