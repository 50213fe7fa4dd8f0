"""Stepwise: published vision methods, one readable file each, and the tools that the notebooks share."""

import logging

# transformers warns that torchvision is missing; this collection does without it on purpose, and the fallback is the one it wants
logging.getLogger("transformers.utils.import_utils").addFilter(lambda record: "requires torchvision" not in record.getMessage())
