# json.awk - for the tables: a field of this line of JSON, "" if it has none; milliseconds as a span.

function field(key,   p, rest) {
    p = index($0, "\"" key "\":")
    if (!p) return ""
    rest = substr($0, p + length(key) + 3)
    if (substr(rest, 1, 1) == "\"") { rest = substr(rest, 2); sub(/".*/, "", rest); return rest }
    sub(/[,}].*/, "", rest)
    return rest
}
function span(ms) {
    if (ms == "") return "-"
    ms += 0
    return ms >= 1000 ? sprintf("%.2f s", ms / 1000) : ms >= 100 ? sprintf("%.0f ms", ms) : ms >= 10 ? sprintf("%.1f ms", ms) : sprintf("%.2f ms", ms)
}
