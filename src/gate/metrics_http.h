// The gate's metrics over HTTP, for Prometheus on the same host: GET /metrics and nothing else. One request a connection, one
// connection at a time, each with a bound and a deadline.
#pragma once

#include <functional>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "sys/stream.h"

namespace midstream::gate {

// The whole answer to what has come: "" if more of the request must come first. `text` is asked for only where it is wanted.
std::string answer_http(std::string_view request, const std::function<std::string()>& text);

// Answers who comes to `listener` until stopped.
void serve_metrics(int listener, const std::function<std::string()>& text, const std::stop_token& stop);

}  // namespace midstream::gate
