"""The ONNX form of each operation, by the operation's name; or the reason why it has none.

A form is a function of the graph as it grows (`Emit`) and of one call; it adds nodes and returns the name of the value
they give. To export a new operation, write its form in the file of its kind, or its reason here.
"""

from minigan.export.forms import convolution, elementwise, indexing, reduction, shape  # they fill FORMS
from minigan.export.forms.register import FORMS, REASONS, form
