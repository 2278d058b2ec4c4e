// One user of the web site, with the habits of a browser: looks the name up, keeps its connection for a
// while, opens a new one for the next visit, and repeats a request by itself in one case only (below).
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "lab/workload/http.h"
#include "lab/workload/resolver.h"

namespace midstream::lab {

struct Reply {
  Result<HttpResponse> response = HttpResponse();  // its error: unknown = the request left; else it never did
  int tries = 0;
};

// For one thread.
class Visitor {
 public:
  // A connection is closed by the visitor after `visit` requests.
  Visitor(Resolver& resolver, HttpUrl url, int visit)
      : resolver_(resolver), url_(std::move(url)), visit_(visit) {}

  // `request` must be safe to repeat. It is repeated once, on a new connection, where a connection that had
  // been used before ended without a byte of an answer: the server may close an idle connection at any time,
  // and RFC 9110, 9.2.2 lets clients take that for an unread request. No other error is hidden.
  Reply send(const HttpRequest& request, Deadline deadline);

 private:
  Result<> connect(Deadline deadline);

  Resolver& resolver_;
  const HttpUrl url_;
  const int visit_;
  std::unique_ptr<HttpConnection> connection_;
};

}  // namespace midstream::lab
