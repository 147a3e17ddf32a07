"""Links from the estimators' HTML representations to their pages of the documentation."""

import os

from sklearn.base import BaseEstimator

# Where the documentation is published; empty as long as it is not, and then there are no links.
# The environment variable SKPSPC_DOCS_URL names another place, such as pages built at home.
_DOCS_URL = ""


class LinkedEstimator(BaseEstimator):
    """An estimator whose HTML representation links to its page of the documentation."""

    _doc_link_module = "skpspc"

    @property
    def _doc_link_template(self):
        root = os.environ.get("SKPSPC_DOCS_URL", _DOCS_URL).rstrip("/")
        return root and f"{root}/api/generated/skpspc.{{estimator_name}}.html"
